"""A reply's grammar, by llguidance: what may follow, as a mask over the vocabulary.

`LLMatcher` never raises. After an error it stays in an error state, in which it allows nothing but the reply's end, as
if it were whole; so every use of it is followed by a look at its flag.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from localllm.backends.llamacpp.grammar_tokens import GrammarTokens
from localllm.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray


class MaskConstraint(ABC):
    """A `localllm.engine.constraint.Constraint` that says which tokens may follow, as a llama.cpp context needs it."""

    @abstractmethod
    def allowed(self) -> NDArray[np.bool_] | None:
        """Return for each token whether it may follow; None if any may."""


class GrammarConstraint(MaskConstraint):
    """A constraint of llguidance's. One thread at a time.

    Args:
        matcher: The grammar at the reply's beginning; its own copy.
        tokens: The vocabulary.
        on_error: Told when the grammar fails.
    """

    def __init__(self, matcher: LLMatcher, tokens: GrammarTokens, on_error: Callable[[], None]) -> None:
        import numpy as np

        self._matcher = matcher
        self._tokens = tokens
        self._on_error = on_error
        self._mask: NDArray[np.uint32] = np.zeros((tokens.n_vocab + 31) // 32, dtype=np.uint32)
        self._prepared = False
        self.stopped: bool = False

    def accept(self, tokens: Sequence[int]) -> None:
        """Take note of what the reply goes on with."""
        self._prepared = False
        self._matcher.consume_tokens(list(tokens))
        self._check("does not allow what the reply went on with")
        self.stopped = self._matcher.is_stopped()

    def fitting(self, tokens: Sequence[int]) -> int:
        """Return with how many of `tokens` the reply may go on; changes nothing."""
        count = self._matcher.validate_tokens(list(tokens))
        self._check("failed")
        return count

    def allows(self, tokens: Sequence[int]) -> bool:
        """Whether the reply may go on with `tokens`; changes nothing."""
        return self.fitting(tokens) == len(tokens)

    def forced(self) -> Sequence[int]:
        """Return the tokens that must follow now; those of them whose text could not be cut another way."""
        forced = self._matcher.compute_ff_tokens()
        self._check("failed")
        return forced

    def prepare(self) -> None:
        """Compute the mask, unless that is done."""
        if not self._prepared:
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._check(
                "leads to a place where no token of the vocabulary may follow, or where there are too many ways"
            )
            self._prepared = True

    def allowed(self) -> NDArray[np.bool_]:
        """Return for each token whether it may follow, ends among them where the reply may end.

        Raises:
            BackendError: As `prepare`.
        """
        import numpy as np

        self.prepare()
        bits = np.unpackbits(self._mask.view(np.uint8), count=self._tokens.n_vocab, bitorder="little")
        return bits.view(np.bool_)

    def _check(self, what: str) -> None:
        if self._matcher.is_error():
            self._on_error()
            raise BackendError(f"the reply's grammar {what}: {said(self._matcher)}")


def said(matcher: LLMatcher) -> str:
    """Return what a matcher says of its error, without the pages of its state."""
    lines = matcher.get_error().split("<state>")[0].strip().splitlines()
    return " ".join(line.strip() for line in lines)[:300] or matcher.stop_reason()

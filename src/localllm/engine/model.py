"""The token-level seam: what the engine needs of a model, so that it also runs over a toy one.

A `TokenModel` is the weights; a `TokenContext` is a KV cache over them, and the only thing that computes. Only the
engine's thread uses a context and its samplers. Positions of a sequence in a context count from 0 without holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from localllm.engine.constraint import Constraint
from localllm.options import RequestOptions


class DecodeError(Exception):
    """A batch could not be computed and the context can no longer be trusted."""


class NoRoomError(Exception):
    """The KV cache has no free cells for a batch; nothing was changed."""


@frozen
class Work:
    """Tokens of one sequence to compute in one step.

    Args:
        seq_id: The context's sequence.
        start: Position of the first token.
        tokens: The tokens, at least one.
        sample: Whether the logits after the last of them are wanted.
    """

    seq_id: int
    start: int
    tokens: Sequence[int]
    sample: bool


class Sampler(Protocol):
    """Chooses tokens for one request; remembers what its penalties need."""

    def accept(self, token: int) -> None:
        """Take note of a token that was not sampled: of the prompt, or a forced one."""

    def close(self) -> None:
        """Free it; a second call does nothing."""


class Distribution(Protocol):
    """The raw distribution over the vocabulary at one place, before any grammar, bias or sampler."""

    def of(self, token: int) -> float:
        """Return the natural logarithm of a token's probability."""

    def top(self, count: int) -> Sequence[tuple[int, float]]:
        """Return the likeliest tokens with theirs, the likeliest first."""


class TokenContext(Protocol):
    """A KV cache and the computation over it."""

    @property
    def n_cells(self) -> int:
        """Tokens that all sequences may hold together; a cell shared by sequences counts once."""

    @property
    def n_sequences(self) -> int:
        """Sequence ids: 0 up to this, exclusive."""

    def decode(self, works: Sequence[Work]) -> Sequence[int]:
        """Compute a batch and return, for each work, where its logits are, or -1 if it wants none.

        Raises:
            NoRoomError: There are no free cells; nothing was changed.
            DecodeError: Anything else; the content of the context is unknown from now on.
        """

    def sample(self, output: int, sampler: Sampler, constraint: Constraint | None = None) -> int:
        """Choose the next token from the logits at `output` of the last batch, and let the sampler remember it.

        With a constraint only tokens that it allows are chosen, and the logits may be changed.
        """

    def distribution(self, output: int) -> Distribution:
        """Return the distribution at `output` of the last batch; stays as it is, whatever is done afterwards."""

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Let `target`, which holds the positions before `start`, share those from `start` to `stop` of `source`."""

    def cut(self, seq_id: int, length: int) -> None:
        """Remove what `seq_id` holds from position `length` on; 0 empties it."""

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Return the content of a sequence's cells from `start` to `stop`; opaque, for any context of the same model.

        A model whose sequences cannot be cut gives all of a sequence or nothing.
        """

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Give `seq_id`, which holds the positions before `start`, those up to `stop` of what `save` returned.

        While it lasts it takes cells for all that `data` holds.

        Raises:
            DecodeError: It does not fit; the content of the context is unknown from now on.
        """

    def close(self) -> None:
        """Free it; a second call does nothing."""


class TokenModel(Protocol):
    """A model's weights and vocabulary."""

    @property
    def can_cut(self) -> bool:
        """Whether a sequence may be cut and copied in part; not so for recurrent and hybrid models."""

    @property
    def part_tokens(self) -> int:
        """Tokens that `TokenContext.save` may take at once; fewer than a sliding window holds, where there is one."""

    def open_context(self, n_cells: int, n_sequences: int) -> TokenContext:
        """Return a new, empty context, with cells for one `load` beside `n_cells`. Safe from any thread.

        Raises:
            MemoryError: There is no memory for it.
        """

    def make_sampler(self, options: RequestOptions, prompt: Sequence[int]) -> Sampler:
        """Return a sampler for one request that has taken note of the prompt where its options look back."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""

    def piece(self, token: int) -> bytes:
        """Return the token's text as UTF-8 bytes, possibly a part of a character; empty for control tokens."""

    def spell(self, token: int) -> bytes:
        """Return the token's text as UTF-8 bytes, control tokens spelled out."""

    def encode_markup(self, text: str) -> Sequence[int]:
        """Return the tokens of a text of ours, in which control tokens are spelled out."""

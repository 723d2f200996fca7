"""What holds a reply to a grammar, token by token: the seam; the llama.cpp adapter has the grammars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Constraint(Protocol):
    """Holds one request's reply to its grammar. Only the engine's thread uses it, once the request is there.

    It belongs to the request and not to a context: a request that is preempted, or whose context broke, goes on with
    it as it is.
    """

    @property
    def stopped(self) -> bool:
        """Whether the reply is whole, so that nothing but its end may follow."""

    def accept(self, tokens: Sequence[int]) -> None:
        """Take note of what the reply goes on with.

        Raises:
            BackendError: The grammar does not allow it, or went beyond a limit.
        """

    def allows(self, tokens: Sequence[int]) -> bool:
        """Whether the reply may go on with `tokens`; changes nothing."""

    def forced(self) -> Sequence[int]:
        """Return the tokens that must follow now, as there is no other way to go on; takes no note of them.

        Raises:
            BackendError: The grammar went beyond a limit.
        """

    def prepare(self) -> None:
        """Find out which tokens may follow, ahead of the sampling. Called while a GPU may still compute the batch.

        Raises:
            BackendError: The grammar went beyond a limit, or no token of the vocabulary may follow.
        """

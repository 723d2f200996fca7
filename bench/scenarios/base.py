"""What a scenario is, and the texts that scenarios are made of."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen

from bench.systems.base import System, Turn
from bench.table import Figures, Measure

TEXT = (
    "the engine reads every prompt once and keeps what it has read so that a second question about the same long "
    "text begins at the first word that differs from what was asked before"
)
WORDS = TEXT.split()
ASSISTANT = "You are a helpful assistant."  # else the model's template adds one of its own, and the bare loop does not


@frozen(kw_only=True)
class Scenario:
    """One thing that is measured, on each of some systems.

    Args:
        name: Its name in the table.
        run: Takes a system through one round; the number makes the round's texts new.
        measures: The figures of a round.
        systems: Who takes part, in the order of turns.
        n_ctx: Tokens of the context.
        n_parallel: Chats that are answered at once.
        threads: Threads that compute; None for one on each core.
        repack: Whether weights may be repacked for the processor.
        fresh: Every round has a process of its own.
        warm_up: A first round is run and not counted.
    """

    name: str
    run: Callable[[System, int], Figures]
    measures: tuple[Measure, ...]
    systems: tuple[str, ...]
    n_ctx: int = 8192
    n_parallel: int = 8
    threads: int | None = None
    repack: bool = True
    fresh: bool = False
    warm_up: bool = field()

    @warm_up.default
    def _warm_up(self) -> bool:
        return not self.fresh


def words(count: int, salt: str) -> str:
    """Return a text of `count` words, about as many tokens, that no other salt begins with."""
    return " ".join([f"Note {salt}:", *(WORDS[index % len(WORDS)] for index in range(count))])


def story(salt: str) -> list[Turn]:
    """Return a short conversation whose answer is long."""
    return [Turn("system", ASSISTANT), Turn("user", f"Write a long story about a lighthouse, part {salt}.")]


def long_chat(count: int, salt: str, question: str = "Say hello.") -> list[Turn]:
    """Return a conversation with a system prompt of `count` words."""
    return [Turn("system", words(count, salt)), Turn("user", question)]

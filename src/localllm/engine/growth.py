"""A context on its way to a larger one: made aside, filled slice by slice, then used in place of the old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from localllm.engine.cells import CellTable
from localllm.engine.migration import Action, Drop, Migration, Share, Transfer
from localllm.engine.model import TokenContext
from localllm.engine.opening import Opening

SLICE_TOKENS = 16
"""Tokens copied at once: few, for one may cost a hundred times what another does. Where chats that ran side by side lie
mixed in the cells, llama.cpp copies the values number by number (measured: 1.4 ms a token, 0.015 ms elsewhere)."""

HURRY = 4
"""How many times its usual part of a step a growth may take to catch up with what is added meanwhile."""


def larger(n_cells: int, ceiling: int) -> int:
    """Return the cells of the context that one of `n_cells` grows to: twice as many, or all there may be.

    All, too, where twice as many would be nearly that: they would only stand beside each other later.
    """
    twice = 2 * n_cells
    return ceiling if 4 * twice >= 3 * ceiling else twice


class Growth:
    """One growth of a context.

    Args:
        opening: The larger context on its way.
        can_cut: Whether sequences may be copied in parts.
        part_tokens: Tokens of a part at most.
        now: The clock, in seconds.
    """

    def __init__(self, opening: Opening, *, can_cut: bool, part_tokens: int, now: Callable[[], float]) -> None:
        self.n_cells: int = opening.n_cells
        self._opening = opening
        self._target: TokenContext | None = None
        self._migration = Migration(can_cut=can_cut, slice_tokens=min(SLICE_TOKENS, part_tokens))
        self._used = 0  # cells in use at the step before
        self._now = now

    @property
    def under_way(self) -> bool:
        """Whether the larger context is there and sequences are being copied."""
        return self._target is not None

    def step(self, old: TokenContext, table: CellTable, seconds: float) -> TokenContext | None:
        """Copy some slices, if the larger context is there; return that context once it holds what the old one does.

        Args:
            old: The context in use.
            table: Its account, which agrees with it now.
            seconds: To be spent on it; up to HURRY times as much to copy twice what was added since the step before.

        Raises:
            MemoryError: There is no memory for the larger context; the old one is as it was.
        """
        if self._target is None:
            if not self._opening.ready:
                return None
            self._target, self._used = self._opening.take(), table.used
        target, start_s, least = self._target, self._now(), 2 * (table.used - self._used)
        self._used = table.used
        for actions, more in self._migration.slices(table):
            for action in actions:
                least -= _carry(old, target, action)
            spent_s = self._now() - start_s
            if more and spent_s >= (seconds if least <= 0 else HURRY * seconds):
                return None
        self._target = None
        return target

    def abandon(self) -> None:
        """Free what was made."""
        self._opening.abandon()
        if self._target is not None:
            self._target.close()
            self._target = None


def _carry(old: TokenContext, target: TokenContext, action: Action) -> int:
    """Carry out an action; return how many tokens were copied."""
    match action:
        case Transfer(seq_id, start, stop):
            target.load(seq_id, old.save(seq_id, start, stop), start, stop)
            return stop - start
        case Share(source, to, start, stop):
            target.copy(source, to, start, stop)
        case Drop(seq_id, length):
            target.cut(seq_id, length)
        case _:
            assert_never(action)
    return 0

"""A context on its way to a larger one: made aside, filled slice by slice, then used in place of the old one."""

from __future__ import annotations

from typing import assert_never

from localllm.engine.cells import CellTable
from localllm.engine.migration import Drop, Migration, Share, Transfer
from localllm.engine.model import TokenContext
from localllm.engine.opening import Opening

SLICE_TOKENS = 128
"""Tokens copied at once: measured best (14 ms for 1,024 tokens; 65 ms in one piece, for its buffer is new memory)."""


class Growth:
    """One growth of a context.

    Args:
        opening: The larger context on its way.
        can_cut: Whether sequences may be copied in parts.
        part_tokens: Tokens of a part at most.
    """

    def __init__(self, opening: Opening, *, can_cut: bool, part_tokens: int) -> None:
        self.n_cells: int = opening.n_cells
        self._opening = opening
        self._target: TokenContext | None = None
        self._migration = Migration(can_cut=can_cut, slice_tokens=min(SLICE_TOKENS, part_tokens))

    @property
    def under_way(self) -> bool:
        """Whether the larger context is there and sequences are being copied."""
        return self._target is not None

    def step(self, old: TokenContext, table: CellTable, allowance: int) -> TokenContext | None:
        """Copy a slice, if the larger context is there; return that context once it holds all that the old one does.

        Args:
            old: The context in use.
            table: Its account, which agrees with it now.
            allowance: Tokens to copy.

        Raises:
            MemoryError: There is no memory for the larger context; the old one is as it was.
        """
        if self._target is None:
            if not self._opening.ready:
                return None
            self._target = self._opening.take()
        target = self._target
        actions, done = self._migration.plan(table, allowance)
        for action in actions:
            match action:
                case Transfer(seq_id, start, stop):
                    target.load(seq_id, old.save(seq_id, start, stop), start, stop)
                case Share(source, to, start, stop):
                    target.copy(source, to, start, stop)
                case Drop(seq_id, length):
                    target.cut(seq_id, length)
                case _:
                    assert_never(action)
        if done:
            self._target = None
            return target
        return None

    def abandon(self) -> None:
        """Free what was made."""
        self._opening.abandon()
        if self._target is not None:
            self._target.close()
            self._target = None

"""The KV cache's cells as the engine keeps account of them: who holds which tokens, and what is shared.

Sequences that were copied share cells. A *run* is a stretch of cells made by one sequence; others hold a leading part
of it. Its length is that of its longest holder, and the cells in use are the sum over the runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from attrs import define, field


@define(eq=False)
class Run:
    """A stretch of cells; `holders` maps a sequence id to how many of them, from the first on, it holds."""

    holders: dict[int, int] = field(factory=dict)

    @property
    def length(self) -> int:
        """Cells in use."""
        return max(self.holders.values(), default=0)


@define(eq=False)
class Held:
    """What one sequence id of a context holds.

    Args:
        seq_id: The sequence id.
        tokens: The tokens in its cells, by position.
        last_used: A counter that grows with each use, for eviction.
        busy: Whether a running request uses it.
        goes_on: Whether it is worth a place in host memory: its reply ended, so that another turn may follow.
        runs: The stretches of cells that it holds, in order.
    """

    seq_id: int
    tokens: array[int] = field(factory=lambda: array("i"))
    last_used: int = 0
    busy: bool = True
    goes_on: bool = False
    runs: list[Run] = field(factory=list)


class CellTable:
    """Account of a context's sequence ids and cells. Pure: it says what is so, the context does it.

    Args:
        n_cells: Cells of the context; may be set to more when it has grown.
        n_sequences: Sequence ids of the context.
    """

    def __init__(self, n_cells: int, n_sequences: int) -> None:
        self.n_cells: int = n_cells
        self.n_sequences = n_sequences
        self.used: int = 0
        self.held: dict[int, Held] = {}
        self._free_ids = list(range(n_sequences - 1, -1, -1))
        self._clock = 0

    @property
    def free(self) -> int:
        """Cells that nobody holds."""
        return self.n_cells - self.used

    @property
    def has_free_id(self) -> bool:
        """Whether `take` would succeed."""
        return bool(self._free_ids)

    def needed_by(self, holders: Iterable[Held]) -> int:
        """Return how many cells `holders` hold together, shared ones counted once."""
        longest: dict[int, int] = {}
        for held in holders:
            for run in held.runs:
                longest[id(run)] = max(longest.get(id(run), 0), run.holders[held.seq_id])
        return sum(longest.values())

    def shared(self, first: Held, second: Held) -> int:
        """Return how many leading cells two holders share."""
        total = 0
        for one, other in zip(first.runs, second.runs, strict=False):
            if one is not other:
                break
            total += min(one.holders[first.seq_id], one.holders[second.seq_id])
            if one.holders[first.seq_id] != one.holders[second.seq_id]:
                break
        return total

    def touch(self, held: Held) -> None:
        """Mark it as the one used last."""
        self._clock += 1
        held.last_used = self._clock

    def take(self) -> Held:
        """Return an empty holder with a sequence id of its own; there must be a free one."""
        held = Held(self._free_ids.pop())
        self.held[held.seq_id] = held
        self.touch(held)
        return held

    def give_back(self, held: Held) -> None:
        """Free all of its cells and its id."""
        self.cut(held, 0)
        del self.held[held.seq_id]
        self._free_ids.append(held.seq_id)

    def append(self, held: Held, tokens: Sequence[int]) -> None:
        """Account for newly computed tokens at its end."""
        if not tokens:
            return
        last = held.runs[-1] if held.runs else None
        own = last.holders[held.seq_id] if last is not None else 0
        if last is None or own < last.length:  # the cells behind its part are somebody else's: begin a new run
            last, own = Run(), 0
            held.runs.append(last)
        last.holders[held.seq_id] = own + len(tokens)
        held.tokens.extend(tokens)
        self.used += len(tokens)

    def copy(self, source: Held, target: Held, length: int) -> None:
        """Let the empty `target` share the first `length` cells of `source`."""
        left = length
        for run in source.runs:
            part = min(left, run.holders[source.seq_id])
            if part <= 0:
                break
            run.holders[target.seq_id] = part
            target.runs.append(run)
            left -= part
        target.tokens = source.tokens[:length]

    def cut(self, held: Held, length: int) -> None:
        """Free what it holds from `length` on."""
        excess = len(held.tokens) - length
        while excess > 0:
            run = held.runs[-1]
            own, before = run.holders[held.seq_id], run.length
            if own <= excess:
                del run.holders[held.seq_id]
                held.runs.pop()
            else:
                run.holders[held.seq_id] = own - excess
            excess -= own
            self.used -= before - run.length
        del held.tokens[length:]

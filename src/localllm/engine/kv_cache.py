"""The KV cache as the scheduler uses it: prefixes found and shared, idle sequences moved away, cells freed.

Changes are made to the account at once and collected as moves, which the engine carries out before the next batch; what
is copied to host memory or back is accounted for as that is done.
"""

from __future__ import annotations

from array import array

from localllm.engine.cells import CellTable, Held
from localllm.engine.host_cache import BLOCK_TOKENS, Block, HostCache
from localllm.engine.plan import Copy, Cut, Move
from localllm.engine.prefix_cache import common_prefix, least_recently_used, longest_prefix

WORTH_TOKENS = 32
"""Tokens from which on a prefix is worth waiting, moving or copying for: a guess, some 100 ms of reading."""


class KvCache:
    """The cells of one context, and the host memory beside it.

    Args:
        table: The account of the context's cells.
        can_cut: Whether the model's sequences may be cut and copied in part.
        host_bytes: Bytes of host memory for idle sequences; 0 keeps them in the context until their cells are needed.
        portion: Keep only whole portions of so many tokens; 0 for all.
        worth_tokens: Tokens from which on a prefix is worth moving or copying for.
        block_tokens: Tokens of a block in host memory.
    """

    def __init__(
        self,
        table: CellTable,
        *,
        can_cut: bool = True,
        host_bytes: int = 0,
        portion: int = 0,
        worth_tokens: int = WORTH_TOKENS,
        block_tokens: int = BLOCK_TOKENS,
    ) -> None:
        self.table: CellTable = table
        self.host: HostCache = HostCache(0 if portion else host_bytes, block_tokens, whole=not can_cut)
        self.can_cut: bool = can_cut
        self.evictions: int = 0
        self.worth: int = worth_tokens
        self._portion = portion
        self._moves: list[Move] = []

    @property
    def idle(self) -> list[Held]:
        """Sequences that nobody runs, the one used longest ago first."""
        return sorted((held for held in self.table.held.values() if not held.busy), key=lambda held: held.last_used)

    @property
    def leaving(self) -> list[Held]:
        """Idle sequences that are on their way out, to host memory; where there is none of it they stay.

        Attention looks at all cells up to the last one in use, so they cost every token that runs beside them.
        """
        return self.idle if self.host.limit_bytes else []

    def take_moves(self) -> tuple[Move, ...]:
        """Return the moves since the last call."""
        moves = tuple(self._moves)
        self._moves.clear()
        return moves

    def forget(self) -> None:
        """The context is lost; host memory is not."""
        self.table = CellTable(self.table.n_cells, self.table.n_sequences)
        self.take_moves()
        self.host.forget_unsaved()

    def best(self, tokens: array[int], most: int) -> tuple[Held | None, int]:
        """Return who holds the longest usable prefix in the context, and its length, at most `most`."""
        if self.can_cut:
            source, length = longest_prefix(tokens, self.table.held.values())
            length = min(length, most)
            length -= length % self._portion if self._portion else 0
            return (source, length) if length else (None, 0)
        whole = [
            held
            for held in self.table.held.values()
            if not held.busy and len(held.tokens) <= most and common_prefix(tokens, held.tokens) == len(held.tokens)
        ]
        found = max(whole, key=lambda held: len(held.tokens), default=None)
        return found, len(found.tokens) if found is not None else 0

    def reach(self, tokens: array[int]) -> int:
        """Return how many leading tokens need not be computed: they are in the context, or in host memory."""
        return max(self.best(tokens, len(tokens))[1], self.host.find(tokens)[1])

    def best_of_host(self, tokens: array[int], most: int, length: int) -> list[tuple[Block, int, int]]:
        """Return what host memory has beyond a prefix of `length`, as blocks with the positions to take from them.

        Nothing if it isn't worth it. A model that cannot be cut gets a whole sequence or nothing.
        """
        blocks, longest = self.host.find(tokens)
        longest = min(longest, most)
        if longest <= length + self.worth or (not self.can_cut and longest != blocks[-1].stop):
            return []
        self.host.touch(blocks[-1])
        start = length if self.can_cut else 0
        parts = [(block, max(block.start, start), min(block.stop, longest)) for block in blocks]
        return [(block, first, last) for block, first, last in parts if first < last]

    def claim(self, source: Held | None, length: int) -> Held | None:
        """Return a sequence that holds the first `length` cells of `source`, or None if all ids are taken.

        Goes on in an idle sequence's own cells if nearly all of it is used: a copy would only crowd the table. Where
        sequences cannot be cut it is copied all the same: what goes on can never be led back to where it was.
        """
        if source is None:
            length = 0
        elif not source.busy and self.can_cut and len(source.tokens) - length <= self.worth:
            return self._reuse(source, length)
        if not self.table.has_free_id and not self._free_id(source):
            return self._reuse(source, length) if source is not None and not source.busy else None
        held = self.table.take()
        if source is not None and length:
            self.copy(source, held, length)
        return held

    def _free_id(self, source: Held | None) -> bool:
        if self.host.limit_bytes:
            return False  # idle ones are on their way out
        victim = least_recently_used(held for held in self.table.held.values() if held is not source)
        if victim is not None:
            self.evict(victim)
        return victim is not None

    def _reuse(self, source: Held, length: int) -> Held:
        self.cut(source, length)
        source.busy = True
        self.table.touch(source)
        return source

    def copy(self, source: Held, target: Held, length: int) -> None:
        """Let `target`, emptied first, share the first `length` cells of `source`."""
        self.cut(target, 0)
        self.table.copy(source, target, length)
        self._moves.append(Copy(source.seq_id, target.seq_id, length))

    def release(self, held: Held, prompt_tokens: int) -> None:
        """A request has ended: what it computed stays as an idle sequence."""
        if self._portion and not self.can_cut:
            self.free(held)
            return
        if self._portion:
            whole = min(len(held.tokens), prompt_tokens)
            self.cut(held, whole - whole % self._portion)
        held.busy = False
        self.table.touch(held)
        if not held.tokens:
            self.table.give_back(held)

    def free(self, held: Held) -> None:
        """Give a sequence's cells and its id back, unless that was done."""
        if self.table.held.get(held.seq_id) is held:
            self.cut(held, 0)
            self.table.give_back(held)

    def leave(self, held: Held) -> None:
        """An idle sequence has been emptied, and what is worth it copied to host memory."""
        self.evictions += not held.goes_on
        self.table.give_back(held)

    def evict(self, held: Held) -> None:
        """Give an idle sequence up for good."""
        self.evictions += 1
        self.free(held)

    def cut(self, held: Held, length: int) -> None:
        """Remove what a sequence holds from `length` on."""
        if len(held.tokens) > length:
            self.table.cut(held, length)
            self._moves.append(Cut(held.seq_id, length))

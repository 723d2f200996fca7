"""The state of a conversation leaves the engine, and comes back: block by block, while requests run.

What leaves is what is cached of a prompt, in the KV cache or in host memory; nothing is computed for it. What comes
back goes to host memory, where the next request finds it as it finds any idle chat.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

from localllm.engine.kv_cache import KvCache
from localllm.engine.model import TokenContext
from localllm.engine.prefix_cache import longest_prefix

Cells: TypeAlias = tuple[int, int, bytes]
"""The first position of some cells, the one after the last, and their content."""


class Job(Protocol):
    """Something to do with a lane's cache, between two steps."""

    def run(self, cache: KvCache, context: TokenContext) -> None:
        """Do it; the context agrees with its account now."""

    def give_up(self) -> None:
        """It will not be done: there is no context, or the engine closes."""


class StateExport:
    """Reads a part of what is cached of a prompt: the asker's pace bounds the memory that it takes.

    Args:
        tokens: The prompt.
        start: Where to begin: 0, or where the part before ended.
        most: Tokens after which to stop; the last block may go beyond them.
        told: Given the cells, block by block; nothing if there are no more.
    """

    def __init__(self, tokens: array[int], start: int, most: int, told: Callable[[list[Cells]], None]) -> None:
        self._tokens = tokens
        self._position = start
        self._end = start + most
        self._told = told

    def run(self, cache: KvCache, context: TokenContext) -> None:
        """Read some blocks; what was given up meanwhile ends them."""
        self._told(list(self._blocks(cache, context)))

    def give_up(self) -> None:
        """There are no more."""
        self._told([])

    def _blocks(self, cache: KvCache, context: TokenContext) -> Iterator[Cells]:
        tokens = self._tokens
        blocks, found = cache.host.find(tokens)
        saved = {block.start: block for block in blocks if block.stop <= found}
        if cache.can_cut:
            held, length = longest_prefix(tokens, cache.table.held.values())
        else:
            held, length = cache.best(tokens, len(tokens))
        size = cache.host.block_tokens if cache.can_cut else max(length, 1)
        while self._position < self._end and self._position % size == 0:  # an end that fills no block is the end
            start = self._position
            block = saved.get(start)
            here = min(start + size, length)
            if block is not None and block.data is not None and block.stop >= here:
                self._position = block.stop
                yield start, block.stop, block.data
            elif held is not None and start < here:
                self._position = here
                yield start, here, context.save(held.seq_id, start, here)
            else:
                return


class StateImport:
    """Puts blocks into host memory.

    Args:
        tokens: The prompt.
        blocks: Its cells, as `StateExport` gave them; what is before them must be there.
        told: Told how many of the blocks are there now.
    """

    def __init__(self, tokens: array[int], blocks: list[Cells], told: Callable[[int], None]) -> None:
        self._tokens = tokens
        self._blocks = blocks
        self._told = told

    def run(self, cache: KvCache, context: TokenContext) -> None:  # as Job has it
        """Put them there, until there is no more room beside those before them."""
        for count, (start, stop, data) in enumerate(self._blocks):
            if not cache.host.adopt(self._tokens[:stop], start, data):
                self._told(count)
                return
        self._told(len(self._blocks))

    def give_up(self) -> None:
        """None is there."""
        self._told(0)

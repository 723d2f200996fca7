"""The state of a conversation leaves the engine, and comes back: block by block, while requests run.

What leaves is what is cached of a prompt, in the KV cache or in host memory; nothing is computed for it. What comes
back goes to host memory, where the next request finds it as it finds any idle chat.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Protocol

from localllm.engine.kv_cache import KvCache
from localllm.engine.model import TokenContext
from localllm.engine.prefix_cache import longest_prefix


class Job(Protocol):
    """Work on a lane's cache, between its steps."""

    def step(self, cache: KvCache, context: TokenContext, allowance: int) -> bool:
        """Move some `allowance` tokens; whether that was the last of it. The context agrees with its account now."""

    def give_up(self) -> None:
        """The engine closes: there will be no further step."""


class StateExport:
    """Reads what is cached of a prompt.

    Args:
        tokens: The prompt.
        take: Given each block: its first position, the one after its last, and its cells; and at the end None.
    """

    def __init__(self, tokens: array[int], take: Callable[[tuple[int, int, bytes] | None], None]) -> None:
        self._tokens = tokens
        self._take = take
        self._position = 0

    def step(self, cache: KvCache, context: TokenContext, allowance: int) -> bool:
        """Read some blocks; what was computed meanwhile is found, what was given up ends it."""
        for start, stop, data in self._blocks(cache, context):
            self._take((start, stop, data))
            self._position = stop
            allowance -= stop - start
            if allowance <= 0:
                return False
        self._take(None)
        return True

    def give_up(self) -> None:
        """End with what there is."""
        self._take(None)

    def _blocks(self, cache: KvCache, context: TokenContext) -> Iterator[tuple[int, int, bytes]]:
        tokens = self._tokens
        blocks, found = cache.host.find(tokens)
        saved = {block.start: block for block in blocks if block.stop <= found}
        if cache.can_cut:
            held, length = longest_prefix(tokens, cache.table.held.values())
        else:
            held, length = cache.best(tokens, len(tokens))
        size = cache.host.block_tokens if cache.can_cut else max(length, 1)
        while self._position % size == 0:  # an end that fills no block is the end
            start = self._position
            block = saved.get(start)
            here = min(start + size, length)
            if block is not None and block.data is not None and block.stop >= here:
                yield start, block.stop, block.data
            elif held is not None and start < here:
                yield start, here, context.save(held.seq_id, start, here)
            else:
                return


class StateImport:
    """Puts one block into host memory.

    Args:
        tokens: All tokens up to the block's last.
        start: The position of its first.
        data: Its cells, as `StateExport` gave them.
        told: Told whether it is there now.
    """

    def __init__(self, tokens: array[int], start: int, data: bytes, told: Callable[[bool], None]) -> None:
        self._tokens = tokens
        self._start = start
        self._data = data
        self._told = told

    def step(self, cache: KvCache, context: TokenContext, allowance: int) -> bool:  # as Job has it
        """Put it there, unless there is no room for it beside what it follows."""
        self._told(cache.host.adopt(self._tokens, self._start, self._data))
        return True

    def give_up(self) -> None:
        """It is not there."""
        self._told(False)

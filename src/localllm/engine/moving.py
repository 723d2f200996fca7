"""Changes of the KV cache: those that a step begins with, and sequences on their way to host memory and back.

What it costs to copy a block of cells is known afterwards only: a hundred times the usual where they lie scattered
among those of others, and ten times where the process has to be given new memory. So it is done by the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_never

from localllm.engine.cells import Held
from localllm.engine.host_cache import Block
from localllm.engine.kv_cache import KvCache
from localllm.engine.model import DecodeError, TokenContext
from localllm.engine.plan import Copy, Cut, Load, Move


def carry_out(context: TokenContext, moves: Iterable[Move]) -> None:
    """Change a context as planned, in order; its account has it already."""
    for move in moves:
        match move:
            case Copy(source, target, length):
                context.copy(source, target, 0, length)
            case Cut(seq_id, length):
                context.cut(seq_id, length)
            case _:
                assert_never(move)


class Mover:
    """Copies cells between a context and host memory, where both agree with the account.

    Args:
        cache: The account.
        now: The clock, in seconds.
    """

    def __init__(self, cache: KvCache, now: Callable[[], float]) -> None:
        self._cache = cache
        self._now = now
        self._ahead_bytes = 0  # copied since anybody ran

    def copy_ahead(self, context: TokenContext) -> bool:
        """Copy one block of idle sequences to host memory while nobody runs; they stay where they are.

        Those that ran side by side, that is: all but one of them will have to leave as soon as anybody runs, and their
        cells lie mixed, so that each block takes ten times the usual. A chat that is alone most likely goes on itself.

        Args:
            context: The context.

        Returns:
            Whether there may be more to copy.

        Raises:
            DecodeError: The context is broken.
        """
        host, leaving = self._cache.host, self._cache.leaving
        if self._ahead_bytes >= host.limit_bytes or len(leaving) < 2:
            return False  # else blocks for which there is no room would push each other out for ever
        carry_out(context, self._cache.take_moves())
        for held in leaving:
            if held.goes_on and (block := host.missing(held.tokens)) is not None:
                self._copy(context, held, block)
                self._ahead_bytes += host.limit_bytes if block.gone or block.data is None else len(block.data)
                return True
        return False

    def clear_out(self, context: TokenContext, seconds: float) -> bool:
        """Copy idle sequences to host memory, block by block, and empty them; give up those that no turn will follow.

        Args:
            context: The context.
            seconds: To be spent on it; a block more at most, of each that there is no room for.

        Returns:
            Whether there were any.

        Raises:
            DecodeError: The context is broken.
        """
        self._ahead_bytes = 0
        end_s = self._now() + seconds
        leaving = self._cache.leaving
        for held in leaving:
            if held.goes_on and not self._save(context, held, end_s):
                break
            context.cut(held.seq_id, 0)
            self._cache.leave(held)
        return bool(leaving)

    def _save(self, context: TokenContext, held: Held, end_s: float) -> bool:
        """Copy a sequence; False if the time is up before all of it is there that has room there."""
        host = self._cache.host
        while (block := host.missing(held.tokens)) is not None:
            self._copy(context, held, block)
            if block.gone:
                break  # there is no room for it beside those before it, nor for those after it
            if self._now() >= end_s:
                return False
        return True

    def _copy(self, context: TokenContext, held: Held, block: Block) -> None:
        """Copy a block, or give its place back if there is no memory for it."""
        try:
            self._cache.host.saved(block, context.save(held.seq_id, block.start, block.stop))
        except MemoryError:
            self._cache.host.discard(block)

    def bring_back(self, context: TokenContext, next_load: Callable[[], Load | None], seconds: float) -> bool:
        """Bring blocks back from host memory.

        Args:
            context: The context.
            next_load: Says what is next.
            seconds: To be spent on it; one block more at most.

        Returns:
            Whether there were any.

        Raises:
            DecodeError: The context is broken.
        """
        end_s = self._now() + seconds
        brought = False
        while (load := next_load()) is not None:
            carry_out(context, self._cache.take_moves())
            self._load(context, load)
            brought = True
            if self._now() >= end_s:
                break
        carry_out(context, self._cache.take_moves())  # there may be no room for what is next even so
        return brought

    def _load(self, context: TokenContext, load: Load) -> None:
        if load.block.data is None:
            raise DecodeError("a block was to be loaded that was never saved")
        try:
            context.load(load.seq_id, load.block.data, load.start, load.stop)
        except DecodeError:
            self._cache.host.discard(load.block)  # else it would break the next context, too
            raise

"""Carrying out changes of the KV cache: those that a step begins with, and the leaving of idle sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from localllm.engine.budget import Budget
from localllm.engine.cells import Held
from localllm.engine.host_cache import Block
from localllm.engine.kv_cache import KvCache
from localllm.engine.model import DecodeError, TokenContext
from localllm.engine.plan import Copy, Cut, Load, Move


class Mover:
    """Changes a context, and what there is beside it in host memory.

    Args:
        cache: The account.
        budget: Learns what it costs to bring cells back.
        now: The clock, in seconds.
    """

    def __init__(self, cache: KvCache, budget: Budget, now: Callable[[], float]) -> None:
        self._cache = cache
        self._budget = budget
        self._now = now

    def carry_out(self, context: TokenContext, moves: Sequence[Move]) -> None:
        """Change the context as planned, in order; the account has it already.

        Raises:
            DecodeError: The context is broken.
        """
        loaded, loaded_s = 0, 0.0
        for move in moves:
            match move:
                case Copy(source, target, length):
                    context.copy(source, target, 0, length)
                case Cut(seq_id, length):
                    context.cut(seq_id, length)
                case Load(block, seq_id, start, stop):
                    start_s = self._now()
                    self._load(context, block, seq_id, start, stop)
                    loaded, loaded_s = loaded + stop - start, loaded_s + self._now() - start_s
                case _:
                    assert_never(move)
        self._budget.observe_loaded(loaded, loaded_s)

    def _load(self, context: TokenContext, block: Block, seq_id: int, start: int, stop: int) -> None:
        if block.data is None:
            raise DecodeError("a block was to be loaded that was never saved")
        try:
            context.load(seq_id, block.data, start, stop)
        except DecodeError:
            self._cache.host.discard(block)  # else it would break the next context, too
            raise

    def clear_out(self, context: TokenContext, seconds: float) -> bool:
        """Copy idle sequences to host memory, block by block, and empty them; give up those that no turn will follow.

        Args:
            context: The context, which agrees with its account now.
            seconds: To be spent on it. What a block costs is known afterwards only: a hundred times the usual where its
                cells lie scattered, or the process has to be given new memory.

        Returns:
            Whether there were any.
        """
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
            host.saved(block, context.save(held.seq_id, block.start, block.stop))
            if block.gone:
                break  # there is no room for it beside those before it, nor for those after it
            if self._now() >= end_s:
                return False
        return True

"""Idle sequences leave for host memory by the clock, and whatever there is room for stays findable."""

from __future__ import annotations

import pytest

from localllm.engine.cells import CellTable, Held
from localllm.engine.kv_cache import KvCache
from localllm.engine.model import DecodeError
from localllm.engine.moving import Mover
from localllm.engine.plan import Load

from .toy import ToyContext


class SlowContext(ToyContext):
    """Takes a second to save a token, and to load one."""

    now_s = 0.0

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Save, after some time."""
        self.now_s += stop - start
        return super().save(seq_id, start, stop)

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Load, after some time."""
        self.now_s += stop - start
        super().load(seq_id, data, start, stop)


class FullContext(ToyContext):
    """Has no room for what was saved."""

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Refuse."""
        raise DecodeError("no room")


class PoorContext(ToyContext):
    """Has no memory for a copy."""

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Refuse."""
        raise MemoryError("none left")


def make(host_bytes: int = 1 << 20) -> tuple[KvCache, SlowContext, Mover]:
    """Return the account of a slow context, the context, and what moves its cells, in blocks of 8 tokens."""
    cache, context = KvCache(CellTable(200, 10), host_bytes=host_bytes, block_tokens=8), SlowContext(200, 10)
    return cache, context, Mover(cache, lambda: context.now_s)


def idle(cache: KvCache, context: ToyContext, count: int, token: int = 1, *, goes_on: bool = True) -> Held:
    """Return an idle sequence of so many tokens."""
    held = cache.table.take()
    cache.table.append(held, [token] * count)
    context.cells += [(position, token, {held.seq_id}) for position in range(count)]
    held.goes_on = goes_on
    cache.release(held, count)
    return held


def test_blocks_leave_while_there_is_time_for_them() -> None:
    """At least one in each step; when all are copied the sequence's cells and its id are free."""
    cache, context, mover = make()
    chats = [idle(cache, context, 20).tokens[:], idle(cache, context, 30, 2).tokens[:]]
    spent = list[float]()
    while cache.leaving:
        start_s = context.now_s
        assert mover.clear_out(context, 10.0)
        spent.append(context.now_s - start_s)
    assert spent == [16.0, 12.0, 16.0, 6.0]
    assert not context.cells
    assert not cache.table.held
    assert cache.evictions == 0
    assert [cache.host.find(tokens)[1] for tokens in chats] == [20, 30]
    assert not mover.clear_out(context, 10.0)


def test_what_no_turn_will_follow_is_given_up() -> None:
    """Nothing of it is copied."""
    cache, context, mover = make()
    idle(cache, context, 20, goes_on=False)
    assert mover.clear_out(context, 0.0)
    assert (cache.evictions, len(cache.host), context.now_s) == (1, 0, 0.0)
    assert not context.cells


def test_chats_that_ran_side_by_side_are_copied_while_nobody_runs() -> None:
    """A block at a time; they stay where they are, and leave without delay when somebody does run."""
    cache, context, mover = make()
    chats = [idle(cache, context, 20).tokens[:], idle(cache, context, 30, 2).tokens[:]]
    idle(cache, context, 10, 3, goes_on=False)
    spent = list[float]()
    start_s = context.now_s
    while mover.copy_ahead(context):
        spent.append(context.now_s - start_s)
        start_s = context.now_s
    assert spent == [8.0, 8.0, 4.0, 8.0, 8.0, 8.0, 6.0]
    assert len(cache.leaving) == 3
    assert len(context.cells) == 60
    assert mover.clear_out(context, 0.0)
    assert context.now_s == start_s
    assert not cache.leaving
    assert [cache.host.find(tokens)[1] for tokens in chats] == [20, 30]


def test_a_chat_that_is_alone_is_not_copied_while_nobody_runs() -> None:
    """It most likely goes on itself; the copy would be memory for nothing."""
    cache, context, mover = make()
    idle(cache, context, 20)
    assert not mover.copy_ahead(context)
    assert len(cache.host) == 0


@pytest.mark.parametrize("host_bytes", [1, 50, 100])
def test_copying_ahead_ends_where_there_is_no_room(host_bytes: int) -> None:
    """Else blocks would push each other out for ever; it begins anew after somebody has run."""
    cache, context, mover = make(host_bytes)
    for token in range(1, 5):
        idle(cache, context, 40, token)
    copied = 0
    while mover.copy_ahead(context):
        copied += 1
        assert copied <= 20
    assert not mover.copy_ahead(context)
    mover.clear_out(context, 0.0)
    for token in range(1, 3):
        idle(cache, context, 40, token)
    assert mover.copy_ahead(context)


@pytest.mark.parametrize("host_bytes", [1, 50, 100])
def test_a_chat_that_is_too_large_for_host_memory_leaves_all_the_same(host_bytes: int) -> None:
    """In no more steps than it has blocks: nobody waits for what can never be copied."""
    cache, context, mover = make(host_bytes)
    tokens = idle(cache, context, 160).tokens[:]
    steps = 0
    while cache.leaving:
        mover.clear_out(context, 0.0)
        steps += 1
        assert steps <= 20
    assert cache.host.used_bytes <= host_bytes
    assert cache.host.find(tokens)[1] < 160


def test_a_chat_for_whose_copy_there_is_no_memory_leaves_without_it() -> None:
    """The copy would spare reading it again; nobody is to fail for want of it."""
    cache, _, mover = make()
    context = PoorContext(200, 10)
    idle(cache, context, 20)
    assert mover.clear_out(context, 1.0)
    assert not context.cells
    assert not cache.table.held
    assert len(cache.host) == 0


def test_blocks_come_back_while_there_is_time_for_them() -> None:
    """What must leave for them leaves first."""
    cache, context, mover = make()
    tokens = idle(cache, context, 40).tokens[:]
    mover.clear_out(context, 100.0)
    other = idle(cache, context, 160, 2)
    held = cache.table.take()
    loads = [Load(block, held.seq_id, block.start, block.stop) for block in cache.host.find(tokens)[0]]
    cache.evict(other)

    def next_load() -> Load | None:
        return loads.pop(0) if loads else None

    start_s = context.now_s
    assert mover.bring_back(context, next_load, 10.0)
    assert context.now_s - start_s == 16.0
    assert len(context.cells) == 16
    assert mover.bring_back(context, next_load, 100.0)
    assert context.tokens_of(held.seq_id) == list(tokens)
    assert not mover.bring_back(context, next_load, 100.0)


def test_a_block_that_does_not_fit_is_no_longer_there() -> None:
    """Else it would break the next context, too."""
    cache, context, mover = make()
    tokens = idle(cache, context, 8).tokens[:]
    mover.clear_out(context, 0.0)
    (block,), found = cache.host.find(tokens)
    assert found == 8
    with pytest.raises(DecodeError, match="no room"):
        mover.bring_back(FullContext(200, 10), lambda: Load(block, 0, 0, 8), 0.0)
    assert cache.host.find(tokens)[1] == 0

"""A conversation's state leaves one engine's cache and comes into another's."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.cells import CellTable
from localllm.engine.kv_cache import KvCache
from localllm.engine.model import Work
from localllm.engine.state import Cells, StateExport, StateImport

from .arrays import tokens
from .toy import ToyContext


def filled(prompts: list[list[int]], *, in_host: int = 0, can_cut: bool = True) -> tuple[KvCache, ToyContext]:
    """Return a cache, and its context, that hold the prompts; the first `in_host` of them in host memory."""
    context = ToyContext(1000, 20, can_cut=can_cut)
    cache = KvCache(CellTable(1000, 20), host_bytes=10_000, block_tokens=4, can_cut=can_cut)
    for number, prompt in enumerate(prompts):
        held = cache.table.take()
        cache.table.append(held, array("i", prompt))
        context.decode([Work(held.seq_id, 0, prompt, False)])
        held.busy = False
        if number < in_host:
            while (block := cache.host.missing(held.tokens)) is not None:
                cache.host.saved(block, context.save(held.seq_id, block.start, block.stop))
            context.cut(held.seq_id, 0)
            cache.table.give_back(held)
    return cache, context


def exported(cache: KvCache, context: ToyContext, prompt: list[int], most: int) -> list[Cells]:
    """Return all blocks of a prompt's state, asked for in parts."""
    taken: list[Cells] = []
    while True:
        part: list[list[Cells]] = []
        start = taken[-1][1] if taken else 0
        StateExport(tokens(*prompt), start, most, part.append).run(cache, context)
        if not part[0]:
            return taken
        taken += part[0]


_PROMPT = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@given(st.lists(_PROMPT, max_size=5), _PROMPT, st.integers(0, 5), st.integers(1, 50))
def test_what_leaves_is_the_longest_cached_prefix_and_comes_back_as_it_was(
    prompts: list[list[int]], wanted: list[int], in_host: int, most: int
) -> None:
    """Whether it is in the context, in host memory or in parts of both; block after block, without holes."""
    cache, context = filled(prompts, in_host=in_host)
    blocks = exported(cache, context, wanted, most)
    position = 0
    for start, stop, data in blocks:
        assert start == position
        assert list(data[1 + start - data[0] :][: stop - start]) == wanted[start:stop]
        position = stop
    common = (sum(1 for _ in _same(prompt, wanted)) for prompt in prompts[in_host:])
    assert position >= max(common, default=0)

    other, elsewhere = filled([])
    told: list[int] = []
    StateImport(tokens(*wanted), blocks, told.append).run(other, elsewhere)
    assert told == [len(blocks)]
    assert other.host.find(tokens(*wanted))[1] == position


def _same(one: list[int], two: list[int]) -> list[int]:
    same = []
    for first, second in zip(one, two, strict=False):
        if first != second:
            break
        same.append(first)
    return same


def test_a_sequence_that_cannot_be_cut_leaves_as_a_whole() -> None:
    """Its state is of all of its tokens; a prompt that begins otherwise has none."""
    cache, context = filled([[1, 2, 3, 4, 5, 6]], can_cut=False)
    assert exported(cache, context, [1, 2, 3, 4, 5, 6, 7], 2) == [(0, 6, bytes([0, 1, 2, 3, 4, 5, 6]))]
    assert exported(cache, context, [1, 2, 3], 2) == []

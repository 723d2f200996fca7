"""Host memory holds prefixes block by block: what is found is what was saved, within its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.host_cache import HostCache

from .arrays import tokens

_PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=14), max_size=12)


def save(cache: HostCache, prompt: list[int]) -> list[tuple[int, list[int]]]:
    """Save what is missing of a prompt, a byte a token; return the blocks that were."""
    saved = []
    while (block := cache.missing(tokens(*prompt))) is not None:
        cache.saved(block, bytes(list(block.tokens)))
        saved.append((block.start, list(block.tokens)))
        if block.gone:
            break
    return saved


@given(_PROMPTS, st.lists(st.integers(0, 2), max_size=14), st.integers(1, 5))
def test_the_longest_saved_prefix_is_found(prompts: list[list[int]], wanted: list[int], size: int) -> None:
    """With room for all, it is as long as the longest common beginning with anything saved, and its tokens agree."""
    cache = HostCache(10_000, size)
    for prompt in prompts:
        save(cache, prompt)
        assert cache.missing(tokens(*prompt)) is None
    blocks, length = cache.find(tokens(*wanted))
    common = [next((i for i, (a, b) in enumerate(zip(p, wanted, strict=False)) if a != b), 99) for p in prompts]
    expected = max((min(n, len(p), len(wanted)) for n, p in zip(common, prompts, strict=True)), default=0)
    assert length == expected
    assert [token for block in blocks for token in block.tokens][:length] == wanted[:length]
    assert [block.start for block in blocks] == list(range(0, length, size))


@given(_PROMPTS, st.integers(1, 5), st.integers(0, 20))
def test_its_bytes_are_bounded_and_what_is_found_is_whole(prompts: list[list[int]], size: int, limit: int) -> None:
    """Whatever was given up, no found prefix has a hole."""
    cache = HostCache(limit, size)
    for prompt in prompts:
        save(cache, prompt)
        assert cache.used_bytes <= limit
        blocks, length = cache.find(tokens(*prompt))
        assert [token for block in blocks for token in block.tokens][:length] == prompt[:length]
        assert all(block.data is not None and not block.gone for block in blocks)


def test_chats_that_begin_alike_share_their_beginning() -> None:
    """The common blocks are saved once; a chat that went on has only its new end saved."""
    cache = HostCache(1000, 4)
    assert save(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == [(0, [1, 2, 3, 4]), (4, [5, 6, 7, 8]), (8, [9])]
    assert save(cache, [1, 2, 3, 4, 5, 6, 7, 8, 50]) == [(8, [50])]
    assert save(cache, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) == [(8, [9, 10, 11])]
    assert cache.used_bytes == 4 + 4 + 1 + 3, "the end that the longer one continues is of no more use"


def test_the_blocks_used_longest_ago_go_first_and_ends_before_beginnings() -> None:
    """A chat in use keeps its beginning."""
    cache = HostCache(12, 4)
    save(cache, [1, 1, 1, 1, 2, 2, 2, 2])
    save(cache, [3, 3, 3, 3])
    blocks, _ = cache.find(tokens(1, 1, 1, 1, 2, 2, 2, 2))
    cache.touch(blocks[-1])
    save(cache, [4, 4, 4, 4])
    assert cache.find(tokens(3, 3, 3, 3))[1] == 0
    save(cache, [5, 5, 5, 5])
    assert cache.find(tokens(1, 1, 1, 1, 2, 2, 2, 2))[1] == 4
    assert cache.evictions == 2


def test_sequences_that_can_only_be_used_as_a_whole_are_found_as_a_whole() -> None:
    """The longest of those that are beginnings of the prompt, never a part of one."""
    cache = HostCache(1000, 4, whole=True)
    for prompt in ([1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 2, 3, 9]):
        save(cache, prompt)
    blocks, length = cache.find(tokens(1, 2, 3, 4, 5, 6, 7))
    assert (len(blocks), length) == (1, 6)
    assert cache.find(tokens(1, 2, 3, 4))[1] == 3
    assert cache.find(tokens(1, 2))[1] == 0


def test_what_was_never_copied_is_forgotten_with_the_context() -> None:
    """Its place is free again; what was copied stays."""
    cache = HostCache(1000, 2)
    save(cache, [1, 2])
    assert cache.missing(tokens(1, 2, 3, 4)) is not None
    cache.forget_unsaved()
    assert cache.find(tokens(1, 2, 3, 4))[1] == 2
    assert cache.missing(tokens(1, 2, 3, 4)) is not None


@given(_PROMPTS, st.lists(st.integers(0, 2), min_size=1, max_size=14), st.integers(1, 5), st.integers(0, 30))
def test_blocks_from_elsewhere_take_the_place_of_others_and_never_of_those_before_them(
    prompts: list[list[int]], state: list[int], size: int, limit: int
) -> None:
    """What was adopted of a state is found as its beginning; all of it, if it fits alone."""
    cache = HostCache(limit, size)
    for prompt in prompts:
        save(cache, prompt)
    adopted = 0
    for start in range(0, len(state), size):
        stop = min(start + size, len(state))
        if not cache.adopt(tokens(*state[:stop]), start, bytes(state[start:stop])):
            break
        adopted = stop
        assert cache.used_bytes <= limit
    assert cache.find(tokens(*state))[1] >= adopted
    if len(state) <= limit:
        assert adopted == len(state)

"""The index of stored prompts finds the longest common beginning, as looking at all of them would."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from localllm.saved.prompt_index import PromptIndex

BLOCK = 3
_PROMPTS = st.lists(st.lists(st.integers(0, 1), max_size=14), max_size=8)


def common(one: list[int], other: list[int]) -> int:
    """Return how many leading tokens are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(_PROMPTS, st.lists(st.integers(0, 1), max_size=16), st.sets(st.integers(0, 7)))
def test_the_longest_common_beginning_is_found(prompts: list[list[int]], wanted: list[int], gone: set[int]) -> None:
    """Of the prompts that are still there, if it is a block or more."""
    index = PromptIndex(BLOCK)
    for number, prompt in enumerate(prompts):
        index.add(str(number), array("i", prompt))
    for number in gone:
        index.remove(str(number))
    left = {str(number): prompt for number, prompt in enumerate(prompts) if number not in gone}
    assert index.names() == left.keys()
    name, length = index.find(array("i", wanted))
    longest = max((common(wanted, prompt) for prompt in left.values()), default=0)
    assert length == (longest if longest >= BLOCK else 0)
    assert (common(wanted, left[name]) if name else 0) == length


def test_a_prompt_of_the_same_name_takes_the_others_place() -> None:
    """Nothing of the old one is found."""
    index = PromptIndex(BLOCK)
    index.add("a", array("i", [1, 2, 3, 4]))
    index.add("a", array("i", [5, 6, 7]))
    assert index.find(array("i", [1, 2, 3])) == ("", 0)
    assert index.find(array("i", [5, 6, 7, 8])) == ("a", 3)


def test_prompts_that_share_much_are_told_apart() -> None:
    """300 prompts of 4,000 tokens in 30 families: the longest of all is found."""
    index = PromptIndex()
    for number in range(300):
        index.add(str(number), array("i", [*range(number % 30 * 64 + number // 30), *range(10_000 + number, 14_000)]))
    assert index.find(array("i", range(4000))) == ("299", 29 * 64 + 9)

"""Finding the longest cached prefix of a prompt, and choosing what to evict."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Protocol, TypeVar

from localllm.engine.cells import Held


def common_prefix(first: array[int], second: array[int], at_least: int = 0) -> int:
    """Return how many leading tokens are the same, or 0 if not more than `at_least`.

    Compares whole slices in C and halves the rest: 4,000 tokens take microseconds.
    """
    high = min(len(first), len(second))
    if high <= at_least or first[: at_least + 1] != second[: at_least + 1]:
        return 0
    low = at_least + 1
    if first[low:high] == second[low:high]:
        return high
    while high - low > 1:  # first[:low] agree, first[:high] do not
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


class HasTokens(Protocol):
    """Something that holds tokens."""

    tokens: array[int]


_T = TypeVar("_T", bound=HasTokens)


def longest_prefix(prompt: array[int], candidates: Iterable[_T]) -> tuple[_T | None, int]:
    """Return who holds the longest prefix of `prompt`, and its length; None and 0 if nobody holds any."""
    best: _T | None = None
    length = 0
    for held in candidates:
        found = common_prefix(prompt, held.tokens, length)
        if found > length:
            best, length = held, found
    return best, length


def least_recently_used(candidates: Iterable[Held]) -> Held | None:
    """Return the idle holder that was used longest ago, or None."""
    return min((held for held in candidates if not held.busy), key=lambda held: held.last_used, default=None)

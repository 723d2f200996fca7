"""The account of cells agrees with a cache that really holds them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.cells import CellTable
from localllm.engine.prefix_cache import common_prefix, least_recently_used, longest_prefix

from .arrays import tokens
from .toy import ToyContext


@given(st.lists(st.tuples(st.sampled_from(["append", "copy", "cut", "free"]), st.integers(0, 99), st.integers(0, 20))))
def test_used_cells_are_those_of_a_real_cache(actions: list[tuple[str, int, int]]) -> None:
    """After any appends, copies, cuts and frees the count of used cells is that of the context."""
    table, context = CellTable(10_000, 5), ToyContext(10_000, 5)
    for action, which, size in actions:
        held = list(table.held.values())
        if action == "copy" and held and table.has_free_id:
            source = held[which % len(held)]
            length = min(size, len(source.tokens))
            target = table.take()
            table.copy(source, target, length)
            context.copy(source.seq_id, target.seq_id, 0, length)
        elif action == "append":
            chosen = held[which % len(held)] if held else table.take()
            start = len(chosen.tokens)
            table.append(chosen, [1] * size)
            context.cells += [(start + offset, 1, {chosen.seq_id}) for offset in range(size)]
        elif held:
            chosen = held[which % len(held)]
            length = min(size, len(chosen.tokens)) if action == "cut" else 0
            table.cut(chosen, length)
            context.cut(chosen.seq_id, length)
            if action == "free":
                table.give_back(chosen)
        assert table.used == len(context.cells) == table.needed_by(table.held.values())
        assert all(list(one.tokens) == context.tokens_of(one.seq_id) for one in table.held.values())


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)), st.integers(0, 8))
def test_common_prefix_counts_equal_leading_tokens(
    shared: list[int], first: list[int], second: list[int], at_least: int
) -> None:
    """It is the plain count, or 0 when that is not above what was already found."""
    one, two = tokens(*shared, *first), tokens(*shared, *second)
    expected = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    assert common_prefix(one, two, at_least) == (expected if expected > at_least else 0)


def test_the_longest_prefix_wins_and_the_first_of_equals() -> None:
    """Looking a prompt up finds who holds most of it."""
    table = CellTable(100, 4)
    for content in ([1, 2], [1, 2, 3, 9], [1, 2, 3, 8], [5]):
        table.append(table.take(), content)
    held, length = longest_prefix(tokens(1, 2, 3, 4), table.held.values())
    assert held is table.held[1]
    assert length == 3
    assert longest_prefix(tokens(7), table.held.values()) == (None, 0)


def test_the_idle_sequence_used_longest_ago_is_evicted_first() -> None:
    """Busy ones are never chosen."""
    table = CellTable(100, 3)
    first, second, third = table.take(), table.take(), table.take()
    assert least_recently_used(table.held.values()) is None
    second.busy = third.busy = False
    table.touch(second)
    assert least_recently_used(table.held.values()) is third
    assert first.busy

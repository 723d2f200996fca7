"""A growing context carries everything over, a slice at a time, and what was shared stays shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from localllm.engine.cells import CellTable, Held
from localllm.engine.growth import Growth, larger
from localllm.engine.opening import Opening

from .toy import ToyContext, ToyModel


@pytest.mark.parametrize(
    ("n_cells", "ceiling", "expected"),
    [(448, 8192, 896), (1792, 8192, 3584), (3584, 8192, 8192), (448, 700, 700), (448, 896, 896), (448, 1190, 1190)],
)
def test_a_context_doubles_until_all_is_near(n_cells: int, ceiling: int, expected: int) -> None:
    """It never stops short of its ceiling by a quarter or less: both would be there at once a little later."""
    assert larger(n_cells, ceiling) == expected


def fill(table: CellTable, context: ToyContext, content: list[int]) -> Held:
    """Return a sequence that holds `content`, in the account and in the context."""
    held = table.take()
    extend(table, context, held, content)
    return held


def extend(table: CellTable, context: ToyContext, held: Held, content: list[int]) -> None:
    """Add to a sequence."""
    start = len(held.tokens)
    table.append(held, content)
    context.cells += [(start + offset, token, {held.seq_id}) for offset, token in enumerate(content)]


def fork(table: CellTable, context: ToyContext, source: Held, length: int) -> Held:
    """Return a sequence that shares a prefix of another one."""
    held = table.take()
    table.copy(source, held, length)
    context.copy(source.seq_id, held.seq_id, 0, length)
    return held


def at_once(work: Callable[[], None]) -> Callable[[], None]:
    """Make a context now."""
    work()
    return lambda: None


def start(can_cut: bool = True, now: Callable[[], float] = lambda: 0.0) -> tuple[CellTable, ToyContext, Growth]:
    """Return a context with its account, and its growth to the double."""
    model = ToyModel(can_cut=can_cut)
    opening = Opening(model, 400, 10, at_once)
    growth = Growth(opening, can_cut=can_cut, part_tokens=8, now=now)
    return CellTable(200, 10), ToyContext(200, 10, can_cut=can_cut), growth


def check(table: CellTable, grown: object) -> None:
    """The new context holds just what the account says, in as many cells."""
    assert isinstance(grown, ToyContext)
    for held in table.held.values():
        assert grown.tokens_of(held.seq_id) == list(held.tokens)
    assert len(grown.cells) == table.used


def test_eight_chats_that_share_their_beginning_take_as_many_cells_after_a_growth() -> None:
    """The shared cells are copied once."""
    table, old, growth = start()
    first = fill(table, old, [*range(1, 60), 90])
    for index in range(7):
        extend(table, old, fork(table, old, first, 59), [70 + index, 71])
    used = table.used
    assert used == 60 + 7 * 2
    grown = None
    while grown is None:
        grown = growth.step(old, table, 0.0)
    check(table, grown)
    assert table.used == used


def test_sequences_go_on_end_and_begin_while_they_are_carried_over() -> None:
    """What changed meanwhile is what the new context holds."""
    table, old, growth = start()
    first, second = fill(table, old, list(range(1, 50))), fill(table, old, list(range(50, 95)))
    assert growth.step(old, table, 0.0) is None
    extend(table, old, first, [3, 4])
    table.cut(second, 5)
    old.cut(second.seq_id, 5)
    extend(table, old, second, [8, 8, 8])
    third = fork(table, old, first, 40)
    assert growth.step(old, table, 0.0) is None
    table.cut(first, 0)
    old.cut(first.seq_id, 0)
    table.give_back(first)
    extend(table, old, third, list(range(20)))
    grown = None
    while grown is None:
        grown = growth.step(old, table, 0.0)
    check(table, grown)


def test_what_there_is_time_for_is_carried_over_in_one_step() -> None:
    """All of it, if slices cost nothing."""
    table, old, growth = start()
    fill(table, old, list(range(1, 50)))
    check(table, growth.step(old, table, 1.0))


class SlowContext(ToyContext):
    """Takes a tenth of a second to save a token."""

    now_s = 0.0

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Save, after some time."""
        self.now_s += 0.1 * (stop - start)
        return super().save(seq_id, start, stop)


def slow(n_tokens: int, part_tokens: int) -> tuple[CellTable, SlowContext, Held, Growth]:
    """Return a slow context, its account, a sequence in it, and its growth."""
    table, old = CellTable(400, 10), SlowContext(400, 10)
    opening = Opening(ToyModel(), 800, 10, at_once)
    growth = Growth(opening, can_cut=True, part_tokens=part_tokens, now=lambda: old.now_s)
    return table, old, fill(table, old, [1] * n_tokens), growth


def test_a_step_copies_for_as_long_as_it_may() -> None:
    """It ends with the slice in which its time is up."""
    table, old, _, growth = slow(390, 128)
    assert growth.step(old, table, 4.0) is None
    assert old.now_s == pytest.approx(4.8)


def test_what_is_added_meanwhile_is_caught_up_with() -> None:
    """Twice of it is copied in a step, if that takes no more than four times its part of the step."""
    table, old, held, growth = slow(100, 8)
    grown, spent = None, list[float]()
    while grown is None:
        start_s = old.now_s
        grown = growth.step(old, table, 1.0)
        spent.append(old.now_s - start_s)
        extend(table, old, held, [2] * 20 if grown is None else [])
    check(table, grown)
    assert spent[0] == pytest.approx(1.6), "nothing had been added"
    assert max(spent) <= 4.8
    assert len(spent) <= 6


def test_sequences_that_cannot_be_cut_are_carried_over_in_one_step() -> None:
    """Whatever the time."""
    table, old, growth = start(can_cut=False)
    fill(table, old, list(range(1, 50)))
    fill(table, old, list(range(50, 95)))
    check(table, growth.step(old, table, 0.0))


def test_a_growth_that_is_given_up_frees_the_larger_context() -> None:
    """Also when it is half filled."""
    table, old, growth = start()
    fill(table, old, list(range(1, 50)))
    assert growth.step(old, table, 0.0) is None
    growth.abandon()
    assert not growth.under_way


def test_a_growth_for_which_there_is_no_memory_says_so() -> None:
    """The old context is as it was."""

    class NoMemory(ToyModel):
        def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
            raise MemoryError("none left")

    opening = Opening(NoMemory(), 400, 10, at_once)
    with pytest.raises(MemoryError, match="none left"):
        Growth(opening, can_cut=True, part_tokens=8, now=lambda: 0.0).step(ToyContext(1, 1), CellTable(1, 1), 0.0)

"""What needs no thread: pictures, feeds, room, figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import (
    Busy,
    Closed,
    Downloaded,
    Downloading,
    Failed,
    Idle,
    InsufficientMemoryError,
    Loading,
    LoadProgress,
    ManagerEvent,
    ManagerSnapshot,
    ModelInfo,
    ModelStats,
    PullProgress,
    Ready,
    StoreError,
    Unloaded,
    Unloading,
    WorkerRestarted,
)
from localllm.residency import feed as feeds
from localllm.residency.board import Board
from localllm.residency.copies import own_copy
from localllm.residency.feed import Feed
from localllm.residency.figures import total
from localllm.residency.picture import Begun, Ended, Happening, Picture
from localllm.residency.room import Occupant, to_unload

INFO = ModelInfo(name="a")


def _progress(number: int, fraction: float) -> Loading:
    return Loading(id=number, ref="a", progress=LoadProgress("loading", fraction))


def _happening(number: int) -> st.SearchStrategy[Happening]:
    named = {"id": st.just(number), "ref": st.just("a")}
    request = st.integers(1, 3)
    return st.one_of(
        st.builds(_progress, st.just(number), st.floats(0, 1)),
        st.builds(Ready, **named, info=st.just(INFO)),
        st.builds(Begun, st.just(number), request),
        st.builds(Ended, st.just(number), request),
        st.builds(Unloading, **named, reason=st.just("idle")),
        st.builds(Unloaded, **named),
        st.builds(WorkerRestarted, **named),
        st.builds(Closed, **named),
        st.builds(Failed, **named, error=st.just(StoreError("x"))),
    )


happenings = st.lists(st.integers(1, 2).flatmap(_happening), max_size=40)


def _told(events: list[ManagerEvent], number: int) -> list[str]:
    return [
        type(event).__name__
        for event in events
        if not isinstance(event, ManagerSnapshot) and event.id == number and isinstance(event, Busy | Idle)
    ]


@given(happenings)
def test_busy_and_idle_alternate(items: list[Happening]) -> None:
    """Of one model never twice the same, unless it has been loaded anew in between; the requests are never wrong."""
    picture = Picture()
    open_requests: dict[int, set[int]] = {}
    last: dict[int, str] = {}
    for item in items:
        known = {model.id for model in picture.snapshot().models}
        for event in picture.apply(item):
            match event:
                case Busy() | Idle():
                    assert last.get(event.id) != type(event).__name__
                    last[event.id] = type(event).__name__
                case Ready() | Closed() | Loading() | Unloading() | Unloaded() | Failed():
                    last.pop(event.id, None)
                case _:
                    pass
        if isinstance(item, Begun) and item.id in known:
            open_requests.setdefault(item.id, set()).add(item.request)
        if isinstance(item, Ended):
            open_requests.get(item.id, set()).discard(item.request)
        if isinstance(item, Closed):
            open_requests.pop(item.id, None)
        for model in picture.snapshot().models:
            assert model.requests == len(open_requests.get(model.id, ()))
            assert (model.state == "busy") <= (model.requests > 0)


@given(happenings)
def test_doing_it_twice_changes_nothing(items: list[Happening]) -> None:
    """What Ctrl-C makes a board note again does no harm."""
    once, twice = Picture(), Picture()
    for item in items:
        once.apply(item)
        twice.apply(item)
        twice.apply(item)
        assert once.snapshot() == twice.snapshot()


@given(happenings, happenings)
def test_a_snapshot_and_what_follows_is_all_there_is(before: list[Happening], after: list[Happening]) -> None:
    """Whenever a subscriber comes: it and an earlier one agree on what comes next, progress merged."""
    board = Board()
    early = board.subscribe(lambda: None, lambda snapshot: snapshot)
    for item in before:
        board.post(item)
    late = board.subscribe(lambda: None, lambda snapshot: snapshot)
    seen: list[ManagerEvent] = []
    while (event := board.take(early)) is not None:
        seen.append(event)
    for item in after:
        board.post(item)
    first = board.take(late)
    assert isinstance(first, ManagerSnapshot)
    assert [event for event in seen if isinstance(event, ManagerSnapshot)] == [ManagerSnapshot()]
    while (event := board.take(early)) is not None:
        assert board.take(late) == event
    assert board.take(late) is None


def test_downloads_are_in_the_snapshot_until_they_end() -> None:
    """Whole, or failed."""
    picture = Picture()
    progress = PullProgress(ref="a", phase="downloading")
    for number in (1, 2):
        picture.apply(Downloading(id=number, ref="a", progress=progress))
    assert [(each.id, each.progress) for each in picture.snapshot().downloads] == [(1, progress), (2, progress)]
    picture.apply(Downloaded(id=1, ref="a"))
    picture.apply(Failed(id=2, ref="a", error=StoreError("x")))
    assert picture.snapshot() == ManagerSnapshot()


@given(st.lists(st.tuples(st.integers(1, 2), st.booleans()), max_size=60))
def test_progress_is_merged_and_states_are_not(items: list[tuple[int, bool]]) -> None:
    """Nobody takes anything meanwhile: of neighbouring progress of one model the latest is left."""
    feed = Feed(lambda: None)
    expected: list[ManagerEvent] = []
    last: dict[int, ManagerEvent] = {}
    for count, (number, is_progress) in enumerate(items):
        event: Loading | Unloaded = _progress(number, count / 100) if is_progress else Unloaded(id=number, ref="a")
        before = last.get(number)
        if is_progress and isinstance(before, Loading):
            expected[next(at for at, each in enumerate(expected) if each is before)] = event
        else:
            expected.append(event)
        last[number] = event
        feed.put(event)
    taken = []
    while (taking := feed.take()) is not None:
        taken.append(taking)
    assert taken == expected


def test_a_subscriber_that_never_comes_back_does_not_fill_the_memory() -> None:
    """Far behind, a pair of busy and idle is left out; the last state is right all the same."""
    feed = Feed(lambda: None)
    feed.put(Ready(id=1, ref="a", info=INFO))
    for _ in range(10 * feeds.LIMIT):
        feed.put(Busy(id=1, ref="a"))
        feed.put(Idle(id=1, ref="a"))
    feed.put(Busy(id=1, ref="a"))
    events: list[ManagerEvent] = []
    while (event := feed.take()) is not None:
        events.append(event)
    assert len(events) <= feeds.LIMIT + 3
    names = _told(events, 1)
    assert names == ["Busy", "Idle"] * (len(names) // 2) + ["Busy"]


occupants = st.lists(
    st.builds(
        Occupant,
        id=st.integers(1, 1000),
        name=st.just("m"),
        memory_bytes=st.integers(0, 50),
        last_used_s=st.floats(0, 100),
        in_use=st.sampled_from(["", "busy", "pinned"]),
    ),
    max_size=8,
    unique_by=lambda occupant: occupant.id,
)


@given(occupants, st.integers(0, 120), st.integers(1, 150))
def test_just_enough_room_is_made(present: list[Occupant], needed: int, budget: int) -> None:
    """Only by those that may go, none of them in vain; it is refused only if all of them would not do."""
    by_id = {occupant.id: occupant for occupant in present}
    staying = sum(occupant.memory_bytes for occupant in present if occupant.in_use)
    if staying + needed > budget:
        with pytest.raises(InsufficientMemoryError, match=f"needs {needed} bytes"):
            to_unload(present, needed, budget, "new")
        return
    leaving = to_unload(present, needed, budget, "new")
    assert not any(by_id[number].in_use for number in leaving)
    left = sum(occupant.memory_bytes for occupant in present if occupant.id not in leaving)
    assert left + needed <= budget
    for number in leaving[-1:]:
        assert left + by_id[number].memory_bytes + needed > budget
    ages = [by_id[number].last_used_s for number in leaving]
    assert ages == sorted(ages)
    stayed = [each for each in present if each.id not in leaving and not each.in_use and each.memory_bytes]
    assert all(age <= each.last_used_s for age in ages for each in stayed)


def test_figures_add_up() -> None:
    """Counts grow, the batch fill is weighted by steps, and what is measured is as it is now."""
    before = ModelStats(finished=2, steps=10, batch_fill=2.0, cells_used=99, running=1)
    now = ModelStats(finished=3, steps=30, batch_fill=4.0, cells_used=7)
    assert total(before, now) == ModelStats(finished=5, steps=40, batch_fill=3.5, cells_used=7)
    assert total(ModelStats(), ModelStats()) == ModelStats()


def test_all_counts_of_the_figures_are_known() -> None:
    """A new figure has to be put on one side: what is counted, or what is measured."""
    measured = {
        "running", "waiting", "cells_used", "cells_total", "host_bytes", "prefill_tokens_per_s", "batch_fill"
    }  # fmt: skip
    ones = ModelStats(**dict.fromkeys(ModelStats.__annotations__, 1))
    grown = total(ones, ModelStats())
    assert {name for name in ModelStats.__annotations__ if not getattr(grown, name)} == measured - {"batch_fill"}


def test_an_error_that_cannot_be_copied_is_shared() -> None:
    """Better the same than none."""

    class Odd(StoreError):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(first + second)

    odd = Odd("a", "b")
    assert own_copy(odd) is odd
    plain = StoreError("x")
    plain.__cause__ = KeyError("y")
    copied = own_copy(plain)
    assert copied is not plain
    assert (str(copied), copied.__cause__) == ("x", plain.__cause__)


@pytest.mark.parametrize("needed", [50, 200])
def test_a_refusal_has_the_figures(needed: int) -> None:
    """Of what is wanted, of the budget, and of what is in the way."""
    mib = 2**20
    present = [Occupant(id=1, name="big", memory_bytes=80 * mib, last_used_s=0, in_use="busy")]
    with pytest.raises(InsufficientMemoryError) as caught:
        to_unload(present, needed * mib, 100 * mib, "new")
    assert f"new needs {needed} MiB, and memory_budget_bytes is 100 MiB" in str(caught.value)
    assert ("big (80 MiB, busy)" in str(caught.value)) == (needed == 50)

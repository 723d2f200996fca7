"""What waits for a slow pipe: bounded in number, complete, in order, and one frame for one burst."""

from __future__ import annotations

import threading
from itertools import pairwise

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.worker.messages import Accepted, Beat, Closed, EventOf, Events, Logged
from localllm.backends.worker.outbox import MAX_LOGS, Entry, Outbox, grouped, merged
from localllm.types import BackendEvent, GenerationEnded, PromptProgress, TextDelta, TokenLogprob

EVENTS = st.builds(
    EventOf,
    st.integers(1, 3),
    st.builds(
        TextDelta,
        st.text(min_size=1, max_size=3),
        st.sampled_from(["text", "thought"]),
        st.just((7,)),
        st.just((TokenLogprob(7, "x", -1.0),)),
    )
    | st.builds(PromptProgress, st.integers(0, 9), st.just(0), st.just(9)),
)
ENTRIES = st.lists(EVENTS | st.builds(Accepted, st.integers(1, 3)) | st.just(Beat()), max_size=40)


def _seen(entries: list[Entry], request: int) -> tuple[list[tuple[str, str]], int]:
    """Return what a request's consumer sees: text by runs of one segment, progress by its last; tokens and chances."""
    runs: list[tuple[str, str]] = []
    tokens = 0
    for entry in entries:
        if not isinstance(entry, EventOf) or entry.id != request:
            continue
        event = entry.event
        kind, said = ("progress", "") if isinstance(event, PromptProgress) else (event.segment, event.text)  # type: ignore[union-attr]
        tokens += len(event.token_ids) + len(event.logprobs) if isinstance(event, TextDelta) else 0
        if runs and runs[-1][0] == kind:
            said = runs.pop()[1] + said
        runs.append((kind, said))
    return runs, tokens


@given(ENTRIES)
def test_merging_loses_nothing_and_keeps_each_requests_order(entries: list[Entry]) -> None:
    """Text, segments and tokens of each request; messages stay as they are."""
    after = merged(entries)
    for request in (1, 2, 3):
        assert _seen(after, request) == _seen(entries, request)
    assert [entry for entry in after if not isinstance(entry, EventOf)] == [
        entry for entry in entries if not isinstance(entry, EventOf)
    ]
    assert merged(after) == after


@given(ENTRIES)
def test_what_follows_each_other_is_one_message(entries: list[Entry]) -> None:
    """So the chunks of one step travel in one frame."""
    found = list(grouped(entries))
    flat = [part for message in found for part in (message.items if isinstance(message, Events) else (message,))]
    assert flat == entries
    assert not any(isinstance(a, Events) and isinstance(b, Events) for a, b in pairwise(found))


def test_a_burst_travels_in_one_frame() -> None:
    """Eight streams' chunks of one step, taken by a writer that comes after it."""
    outbox = Outbox()
    for request in range(8):
        outbox.put_event(request, TextDelta("x"))
    (events,) = outbox.take()
    assert isinstance(events, Events)
    assert [item.id for item in events.items] == list(range(8))


def test_a_stuck_pipe_takes_no_more_memory_than_the_text() -> None:
    """A hundred thousand deltas of four streams become a few; all their text is there, then the ends."""
    outbox = Outbox(limit=64)
    for count in range(100_000):
        outbox.put_event(count % 4, TextDelta(f"{count} "))
        assert count > 100 or outbox.marks == count + 1
    for request in range(4):
        outbox.put_event(request, GenerationEnded("stop"))
    (events,) = outbox.take()
    assert isinstance(events, Events)
    assert len(events.items) <= 64 + 4
    for request in range(4):
        mine: list[BackendEvent] = [item.event for item in events.items if item.id == request]
        said = "".join(event.text for event in mine if isinstance(event, TextDelta))
        assert said == "".join(f"{count} " for count in range(request, 100_000, 4))
        assert isinstance(mine[-1], GenerationEnded)


def test_alternating_segments_are_not_merged_and_cost_no_more_for_it() -> None:
    """The limit follows what cannot be merged, so that not each event tries again."""
    outbox = Outbox(limit=4)
    for count in range(1000):
        outbox.put_event(1, TextDelta("x", "text" if count % 2 else "thought"))
    (events,) = outbox.take()
    assert isinstance(events, Events)
    assert len(events.items) == 1000


def test_a_flood_of_log_records_is_cut() -> None:
    """The first are kept, and the rest are counted."""
    outbox = Outbox()
    for count in range(MAX_LOGS + 5):
        outbox.put_log(Logged(logger="x", level=10, text=str(count)))
    found = outbox.take()
    assert len(found) == MAX_LOGS + 1
    assert "5 log records of the worker were dropped" in getattr(found[-1], "text", "")
    outbox.put_log(evolve(Logged(logger="x", level=10, text="again")))
    assert len(outbox.take()) == 1


def test_a_writer_is_woken_and_leaves_when_all_is_taken() -> None:
    """Closing lets the last messages go first."""
    outbox, taken = Outbox(), list[object]()

    def write() -> None:
        while outbox.wait():
            taken.extend(outbox.take())
        taken.extend(outbox.take())

    writer = threading.Thread(target=write)
    writer.start()
    outbox.put(Beat())
    outbox.put(Closed())
    outbox.close()
    writer.join(10)
    assert taken == [Beat(), Closed()]


def test_a_thread_that_sends_its_events_itself_wakes_nobody() -> None:
    """Others still do, and what they wake for finds its events, too."""
    outbox, woken = Outbox(), list[list[object]]()
    outbox.leave_to_this_thread()
    writer = threading.Thread(target=lambda: woken.extend([list(outbox.take())] if outbox.wait() else []))
    writer.start()
    outbox.put_event(1, TextDelta("mine"))
    assert not woken
    other = threading.Thread(target=outbox.put_event, args=(2, TextDelta("its own")))
    other.start()
    other.join(10)
    writer.join(10)
    assert woken == [[Events((EventOf(1, TextDelta("mine")), EventOf(2, TextDelta("its own"))))]]

"""The mailbox between a backend and a consumer: complete, in order, bounded, and free of locks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from localllm import GenerationEnded, PromptProgress, TextDelta
from localllm.mailbox import MAX_PENDING, Mailbox, merged
from localllm.stages import StageEvent
from localllm.types import BackendEvent, Segment, TokenLogprob
from tests.chats import in_thread

segments = st.sampled_from(("text", "thought"))
events = st.lists(
    st.one_of(
        st.builds(TextDelta, st.text(min_size=1, max_size=3), segments),
        st.builds(PromptProgress, st.integers(0, 9), st.just(0), st.just(9)),
    )
)


def _text(events: Sequence[StageEvent], segment: Segment) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.segment == segment)


def _runs(events: Sequence[StageEvent]) -> list[object]:
    """What follows what: the segment or kind of each run of neighbours that are alike."""
    kinds = [event.segment if isinstance(event, TextDelta) else "progress" for event in events]
    return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]


@given(events)
def test_merging_keeps_text_and_order(given: list[BackendEvent]) -> None:
    """The text of each segment is the same, and runs follow each other as before, each as one event."""
    out = merged(given)
    assert _text(out, "text") == _text(given, "text")
    assert _text(out, "thought") == _text(given, "thought")
    assert _runs(out) == _runs(given)
    assert len(out) == len(_runs(given))


def test_merging_keeps_log_probabilities() -> None:
    """All of them, in order."""
    first, second = TokenLogprob(1, "a", -0.5), TokenLogprob(2, "b", -0.25)
    out = merged([TextDelta("a", logprobs=(first,)), TextDelta("b", logprobs=(second,))])
    assert out == [TextDelta("ab", logprobs=(first, second))]


def test_merging_keeps_the_latest_progress() -> None:
    """Where the prompt was is of no interest once it is further."""
    assert merged([PromptProgress(1, 0, 9), PromptProgress(5, 0, 9)]) == [PromptProgress(5, 0, 9)]


def _drain(mailbox: Mailbox) -> list[StageEvent]:
    taken: list[StageEvent] = []
    while (event := mailbox.take()) is not None:
        taken.append(event)
    return taken


def test_what_waits_is_bounded() -> None:
    """However much text a backend makes while nobody reads, some hundred events hold it."""
    mailbox = Mailbox(lambda: None)
    for number in range(100_000):
        mailbox.put(TextDelta(f"{number},"))
    taken = _drain(mailbox)
    assert len(taken) <= MAX_PENDING
    assert _text(taken, "text") == "".join(f"{number}," for number in range(100_000))


def test_segments_that_take_turns_are_kept_apart() -> None:
    """They cannot be merged, and trying costs no more for that."""
    mailbox = Mailbox(lambda: None)
    for _ in range(1000):
        mailbox.put(TextDelta("a", "thought"))
        mailbox.put(TextDelta("b", "text"))
    assert len(_drain(mailbox)) == 2000


def test_a_consumer_beside_the_producer_gets_everything_in_order() -> None:
    """Also while the producer is merging."""
    mailbox = Mailbox(lambda: None)
    count = 30_000

    def produce() -> None:
        for number in range(count):
            mailbox.put(TextDelta(f"{number},"))
        mailbox.put(GenerationEnded("stop"))

    wait = in_thread(produce)
    taken: list[StageEvent] = []
    while not (taken and isinstance(taken[-1], GenerationEnded)):
        taken.extend(_drain(mailbox))
    assert wait() is None
    assert _text(taken, "text") == "".join(f"{number}," for number in range(count))


def test_nothing_follows_the_end() -> None:
    """What a backend pushes after its last event is ignored."""
    mailbox = Mailbox(lambda: None)
    end = GenerationEnded("stop")
    for event in (TextDelta("a"), end, TextDelta("b"), GenerationEnded("length")):
        mailbox.put(event)
    assert _drain(mailbox) == [TextDelta("a"), end]
    assert mailbox.ended is end


def test_discarding_forgets_the_text_and_waits_for_the_end() -> None:
    """What was pending is gone, what comes is not kept, and the end is known."""
    woken: list[bool] = []
    mailbox = Mailbox(lambda: woken.append(True))
    mailbox.put(TextDelta("a"))
    mailbox.discard()
    mailbox.put(TextDelta("b"))
    assert mailbox.take() is None
    assert woken == [True]
    end = GenerationEnded("cancelled")
    mailbox.put(end)
    assert mailbox.ended is end
    assert woken == [True, True]

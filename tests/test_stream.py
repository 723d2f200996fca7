"""`ChatStream`: chunks, events, the whole reply, and every way in which a stream ends."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from localllm import (
    ChatSession,
    ChatStream,
    FakeReply,
    Message,
    ModelConfig,
    PromptProgress,
    ReplyEnded,
    StreamChunk,
    StreamConsumedError,
)
from localllm.testing import ManualClock
from tests.chats import chatting, in_thread, texts

ABC = FakeReply(chunks=["a", "b", "c"])


@pytest.fixture
def chat() -> Iterator[ChatSession]:
    """A session whose model answers twice with the chunks a, b, c, and then with "later"."""
    with chatting(ABC, ABC, "later") as (session, _):
        yield session


def test_a_for_loop_yields_counted_chunks_that_join_to_the_reply(chat: ChatSession) -> None:
    """Chunks are counted from 0, their text is the reply's, and the history has prompt and reply."""
    stream = chat.stream("hi")
    assert list(stream) == [StreamChunk("a", "text", 0), StreamChunk("b", "text", 1), StreamChunk("c", "text", 2)]
    assert stream.reply.text == "abc"
    assert stream.reply.finish_reason == "stop"
    assert texts(chat.history) == ["hi", "abc"]
    assert chat.history[-1] == stream.reply.message
    assert list(stream) == []


def test_a_stream_is_an_iterator_itself(chat: ChatSession) -> None:
    """`next(stream)` gives chunks one by one, then StopIteration, again and again."""
    stream = chat.stream("hi")
    assert [next(stream).text for _ in range(3)] == ["a", "b", "c"]
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)
    assert stream.reply.finish_reason == "stop"


def test_the_reply_is_whole_whatever_was_read_before(chat: ChatSession) -> None:
    """`.reply` drains the rest: after one chunk, and without any."""
    stream = chat.stream("hi")
    next(stream)
    assert stream.reply.text == "abc"
    assert list(stream) == []
    assert chat.stream("hi").reply.text == "abc"
    assert texts(chat.history) == ["hi", "abc", "hi", "abc"]


def test_thoughts_are_chunks_of_their_own_and_no_part_of_the_text() -> None:
    """A thought arrives as a segment, and is kept beside the text in reply and history."""
    with chatting(FakeReply("fine", thought="so be it")) as (chat, _):
        stream = chat.stream("hi")
        chunks = list(stream)
        assert "".join(chunk.text for chunk in chunks if chunk.segment == "thought") == "so be it"
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert (stream.reply.text, stream.reply.thought) == ("fine", "so be it")
        assert chat.history[-1].thought == "so be it"
        assert stream.reply.usage.thought_tokens > 0


def test_events_tell_everything_and_end_with_the_reply(chat: ChatSession) -> None:
    """`events()` yields the prompt's progress, the chunks and, last, the reply."""
    stream = chat.stream("hi")
    progress, *chunks, ended = stream.events()
    assert isinstance(progress, PromptProgress)
    assert [chunk.text for chunk in chunks if isinstance(chunk, StreamChunk)] == ["a", "b", "c"]
    assert ended == ReplyEnded(stream.reply)
    assert list(stream.events()) == []


def test_chunks_and_events_exclude_each_other(chat: ChatSession) -> None:
    """Whoever began with one is refused the other, and can go on."""
    stream = chat.stream("hi")
    next(stream)
    with pytest.raises(StreamConsumedError, match=r"read as chunks"):
        stream.events()
    assert next(stream).text == "b"
    other = chat.fork().stream("hi")
    events = other.events()
    for refused in (lambda: iter(other), lambda: next(other)):
        with pytest.raises(StreamConsumedError, match=r"read as events"):
            refused()
    assert isinstance(next(events), PromptProgress)


def _break_from_for(stream: ChatStream) -> None:
    for chunk in stream:
        if chunk.text == "b":
            break


def _leave_with(stream: ChatStream) -> None:
    with stream as same:
        assert same is stream
        next(stream)
        next(stream)


def _cancel(stream: ChatStream) -> None:
    next(stream)
    next(stream)
    stream.cancel()
    stream.cancel()


def _drop_the_iterator(stream: ChatStream) -> None:
    assert len(list(itertools.islice(stream, 2))) == 2


def _raise_in_for(stream: ChatStream) -> None:
    with pytest.raises(ZeroDivisionError):
        for chunk in stream:
            1 / (chunk.text == "a")


def _raise_in_with(stream: ChatStream) -> None:
    with pytest.raises(ZeroDivisionError), stream:
        for chunk in stream:
            1 / (chunk.text == "a")


def _break_from_events(stream: ChatStream) -> None:
    for event in stream.events():
        if isinstance(event, StreamChunk) and event.text == "b":
            break


@pytest.mark.parametrize(
    "leave",
    [
        _break_from_for,
        _leave_with,
        _cancel,
        _drop_the_iterator,
        _raise_in_for,
        _raise_in_with,
        _break_from_events,
    ],
)
def test_leaving_early_keeps_exactly_what_was_delivered(chat: ChatSession, leave: Callable[[ChatStream], None]) -> None:
    """However one leaves after the second chunk: the history has two chunks, and the session is free at once."""
    stream = chat.stream("hi")
    leave(stream)
    assert texts(chat.history) == ["hi", "ab"]
    assert chat.history[-1].finish_reason == "cancelled"
    assert chat.history[-1].token_ids is None
    assert chat.send("again").text == "abc"
    assert (stream.reply.text, stream.reply.finish_reason) == ("ab", "cancelled")
    assert stream.reply.message == chat.history[1]
    assert list(stream.events() if leave is _break_from_events else stream)[1:] == []


def test_a_break_after_the_last_chunk_is_a_cancel(chat: ChatSession) -> None:
    """Only who has seen the end has a whole reply, even if the backend was done."""
    stream = chat.stream("hi")
    for chunk in stream:
        if chunk.text == "c":
            break
    assert chat.history[-1].finish_reason == "cancelled"
    assert (stream.reply.text, stream.reply.finish_reason) == ("abc", "cancelled")


def test_a_cancelled_reply_has_the_figures_of_the_backend() -> None:
    """Usage and timings are those of the backend's end, which `.reply` waits for."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b", "c"], delay_s=1), clock=clock) as (chat, _):
        stream = chat.stream("hi")
        clock.wait_until_blocked()
        clock.advance(1)
        next(stream)
        stream.cancel()
        reply = stream.reply
        assert reply.usage.prompt_tokens > 0
        assert reply.usage.completion_tokens == 1
        assert reply.timings.first_token_s == pytest.approx(1)


def test_events_end_with_the_reply_after_a_cancel(chat: ChatSession) -> None:
    """Who listens on after `cancel()` is told the partial reply as the last event."""
    stream = chat.stream("hi")
    seen = []
    for event in stream.events():
        seen.append(event)
        if isinstance(event, StreamChunk):
            stream.cancel()
    assert seen[1:] == [StreamChunk("a", "text", 0), ReplyEnded(stream.reply)]
    assert stream.reply.finish_reason == "cancelled"


def test_cancelled_before_any_text_leaves_the_history_as_it_was(chat: ChatSession) -> None:
    """No text, no turn; the reply says so."""
    stream = chat.stream("hi")
    stream.cancel()
    assert chat.history == ()
    assert (stream.reply.text, stream.reply.finish_reason) == ("", "cancelled")
    assert list(stream) == []


def test_a_thought_alone_is_no_text() -> None:
    """A reply cancelled while it was thinking leaves the history as it was."""
    with chatting(FakeReply("fine", thought="hmm")) as (chat, _):
        for chunk in chat.stream("hi"):
            assert chunk.segment == "thought"
            break
        assert chat.history == ()


@pytest.mark.parametrize(
    "hold", [lambda stream: None, iter, lambda stream: stream.events()], ids=["-", "for", "events"]
)
def test_dropping_the_last_reference_frees_the_session(chat: ChatSession, hold: Callable[[ChatStream], object]) -> None:
    """Neither the session nor the backend keeps a stream alive; once it is gone the session is free."""
    stream = chat.stream("hi")
    held = hold(stream)
    gone = weakref.ref(stream)
    del stream
    assert (gone() is None) == (held is None)
    del held
    assert gone() is None
    assert chat.send("again").text == "abc"
    assert texts(chat.history) == ["again", "abc"]


def test_a_stream_in_a_reference_cycle_is_cancelled_by_the_garbage_collector(chat: ChatSession) -> None:
    """What was delivered is kept, as with any other way to end."""
    stream = chat.stream("hi")
    next(stream)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    assert texts(chat.history) == ["hi", "a"]


def test_a_dropped_stream_lets_the_backend_stop() -> None:
    """The request ends although the backend was in the middle of it, so the next one is answered."""
    clock = ManualClock()
    with chatting(FakeReply("never", delay_s=1e6), "next", clock=clock) as (chat, _):
        chat.stream("hi")
        assert chat.send("again").text == "next"


def test_an_exhausted_iterator_cancels_nothing(chat: ChatSession) -> None:
    """A loop that came to the end leaves a whole reply, also after its iterator and stream are gone."""
    for _ in chat.stream("hi"):
        pass
    assert chat.history[-1].finish_reason == "stop"


def test_a_with_block_around_a_whole_loop_cancels_nothing(chat: ChatSession) -> None:
    """Leaving the block after the end changes nothing."""
    with chat.stream("hi") as stream:
        assert len(list(stream)) == 3
    assert stream.reply.finish_reason == "stop"


def test_another_thread_may_cancel() -> None:
    """Who waits for a chunk is woken: its loop ends, and what was delivered is kept."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as (chat, _):
        stream = chat.stream("hi")
        clock.wait_until_blocked()
        clock.advance(1)
        seen: SimpleQueue[str] = SimpleQueue()

        def read() -> None:
            for chunk in stream:
                seen.put(chunk.text)

        wait = in_thread(read)
        assert seen.get(timeout=15) == "a"
        stream.cancel()
        assert wait() is None
        assert seen.empty()
        assert texts(chat.history) == ["hi", "a"]


def test_a_slow_consumer_gets_the_whole_text_in_merged_chunks() -> None:
    """However many pieces wait, the text is complete and in order, and the pieces kept are bounded."""
    pieces = [f"{number} " for number in range(5000)]
    with chatting(FakeReply(chunks=[*pieces, "end"]), "ok", config=ModelConfig(n_ctx=50_000, n_parallel=1)) as (
        chat,
        _,
    ):
        stream = chat.stream("hi")
        chat.fork().send("answered only when the stream's request has ended")
        chunks = list(stream)
        assert "".join(chunk.text for chunk in chunks) == "".join(pieces) + "end"
        assert len(chunks) <= 257
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))


def test_closing_the_model_ends_a_stream_as_cancelled(chat: ChatSession) -> None:
    """A consumer gets all that had been made, then the end; the turn counts as cancelled."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as (chat, _):
        stream = chat.stream("hi")
        clock.wait_until_blocked()
        clock.advance(1)
        clock.wait_until_blocked()
        chat.model.close()
        assert [chunk.text for chunk in stream] == ["a"]
        assert stream.reply.finish_reason == "cancelled"
        assert texts(chat.history) == ["hi", "a"]


def test_what_the_model_generated_is_remembered_as_tokens(chat: ChatSession) -> None:
    """The assistant message of a whole reply carries the backend's tokens."""
    for _ in chat.stream("hi"):
        pass
    ids = chat.history[-1].token_ids
    assert ids is not None
    assert chat.model.detokenize(ids.tokens) == "abc"
    assert ids.model_hash == chat.model.info.model_hash


def test_options_are_those_of_the_call() -> None:
    """A stream takes the same options as `send`."""
    with chatting("one two three", temperature=0.5) as (chat, backend):
        assert chat.stream("hi", max_tokens=1).reply.finish_reason == "length"
        assert backend.requests[0].options.max_tokens == 1
        assert backend.requests[0].options.temperature == 0.5
        assert backend.requests[0].messages == (Message.user("hi"),)

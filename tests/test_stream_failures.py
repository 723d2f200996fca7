"""A stream that times out or fails: what is raised, what is kept, and what `.reply` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from localllm import (
    BackendError,
    ChatStream,
    FakeReply,
    GenerationTimeoutError,
    LocalLLMError,
)
from localllm.testing import ManualClock
from tests.chats import chatting, texts


def _iterate(stream: ChatStream) -> None:
    for _ in stream:
        pass


def _iterate_events(stream: ChatStream) -> None:
    for _ in stream.events():
        pass


@pytest.mark.parametrize("read", [_iterate, _iterate_events])
def test_a_time_out_raises_once_and_keeps_the_partial_reply(read: Callable[[ChatStream], None]) -> None:
    """Iteration raises with the partial reply; the history has it; `.reply` then gives it without raising."""
    clock = ManualClock(auto_advance=True)
    with chatting(FakeReply(chunks=["a", "b", "c"], delay_s=1), clock=clock) as (chat, _):
        stream = chat.stream("hi", timeout_s=2.5)
        with pytest.raises(GenerationTimeoutError, match=r"timeout_s=2.5 seconds") as caught:
            read(stream)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.reply == stream.reply
        assert (stream.reply.text, stream.reply.finish_reason) == ("ab", "timeout")
        assert texts(chat.history) == ["hi", "ab"]
        assert chat.history[-1].finish_reason == "timeout"
        assert chat.history[-1].token_ids is not None


def test_a_time_out_that_nobody_iterated_is_a_reply_without_raising() -> None:
    """`.reply` gives what there was."""
    clock = ManualClock(auto_advance=True)
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as (chat, _):
        reply = chat.stream("hi", timeout_s=1.5).reply
        assert (reply.text, reply.finish_reason) == ("a", "timeout")


def test_a_time_out_before_any_text_leaves_the_history_as_it_was() -> None:
    """There is a reply with figures, and no turn."""
    clock = ManualClock(auto_advance=True)
    with chatting(FakeReply("late", delay_s=10), clock=clock) as (chat, _):
        stream = chat.stream("hi", timeout_s=1)
        with pytest.raises(GenerationTimeoutError):
            next(stream)
        assert chat.history == ()
        assert (stream.reply.text, stream.reply.usage.prompt_tokens > 0) == ("", True)


@pytest.mark.parametrize("read", [_iterate, _iterate_events])
def test_an_error_leaves_the_history_and_holds_the_partial_reply(read: Callable[[ChatStream], None]) -> None:
    """After some text: delivered first, then raised, by iteration and by `.reply`, always the same exception."""
    failing = FakeReply(chunks=["a", "b", "c"], error=ValueError("boom"), error_at=2)
    with chatting("fine", failing) as (chat, _):
        chat.send("first")
        stream = chat.stream("hi")
        with pytest.raises(BackendError, match="boom") as caught:
            read(stream)
        assert caught.value.reply is not None
        assert (caught.value.reply.text, caught.value.reply.finish_reason) == ("ab", "error")
        assert caught.value.reply.usage.completion_tokens == 2
        assert isinstance(caught.value.__cause__, ValueError)
        assert texts(chat.history) == ["first", "fine"]
        for _ in range(2):
            with pytest.raises(BackendError) as again:
                stream.reply  # noqa: B018
            assert again.value is caught.value
        assert len(list(_frames(caught.value))) < 12


def _frames(error: BaseException) -> Iterator[object]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def test_an_error_of_our_own_arrives_as_it_is_with_the_reply() -> None:
    """Errors that a backend gives in our own types are not wrapped; a reply without text has its figures."""
    error = LocalLLMError("scripted")
    with chatting(error) as (chat, _):
        with pytest.raises(LocalLLMError, match="scripted") as caught:
            next(chat.stream("hi"))
        assert caught.value is error
        assert error.reply is not None
        assert error.reply.text == ""
        assert error.reply.usage.prompt_tokens > 0
        assert chat.history == ()

"""Turns that end in the middle of their tools: by a cancel, an error, a closed model; and what they leave."""

from __future__ import annotations

import threading

import pytest

from localllm import (
    BackendError,
    ChatSession,
    ClosedError,
    FakeReply,
    GenerateRequest,
    GenerationEnded,
    Message,
    Tool,
    ToolCall,
    ToolEnded,
    ToolStarted,
    tool,
)
from localllm.draft import CANCELLED
from tests.by_hand import HandModel, loaded
from tests.chats import chatting, in_thread, texts
from tests.weather import OSLO, called, result, weather

U = Message.user


def waiting(begun: threading.Event, release: threading.Event) -> Tool:
    """Return a tool that tells that it has begun and waits."""

    def wait(city: str) -> str:
        begun.set()
        release.wait(15)
        return "late"

    return tool(wait, name="weather")


def test_cancel_in_the_middle_of_a_tool_answers_its_calls() -> None:
    """The session is free at once; a call that ended keeps its result, the other one's says that it was cancelled."""
    begun, release = threading.Event(), threading.Event()

    def mixed(city: str) -> str:
        if city == "Rome":
            return "sunny"
        begun.set()
        release.wait(15)
        return "late"

    calls = (ToolCall("mixed", {"city": "Oslo"}, "1"), ToolCall("mixed", {"city": "Rome"}, "2"))
    with chatting(FakeReply("Hm.", tool_calls=calls), "next", tools=[mixed]) as (chat, _):
        stream = chat.stream("hi")
        for event in stream.events():
            if isinstance(event, ToolEnded):
                assert begun.wait(15)
                stream.cancel()
        assert chat.history == (
            U("hi"),
            called(*calls, text="Hm."),
            result(CANCELLED, calls[0]),
            result("sunny", calls[1]),
            Message("assistant", ""),
        )
        assert chat.history[-1].finish_reason == "cancelled"
        assert (stream.reply.finish_reason, stream.reply.text) == ("cancelled", "")
        assert chat.send("again").text == "next"
        release.set()


def test_cancelled_in_a_tool_before_any_text_leaves_the_history_as_it_was() -> None:
    """As with any other reply."""
    begun, release = threading.Event(), threading.Event()
    with chatting(FakeReply(tool_calls=(OSLO,)), "next", tools=[waiting(begun, release)]) as (chat, _):
        stream = chat.stream("hi")
        wait = in_thread(lambda: stream.reply)
        assert begun.wait(15)
        stream.cancel()
        assert wait() is None
        assert chat.history == ()
        assert chat.send("again").text == "next"
        release.set()


def test_a_stream_that_is_dropped_in_the_middle_of_a_tool_frees_the_session() -> None:
    """What was said is kept."""
    begun, release = threading.Event(), threading.Event()
    with chatting(FakeReply("Hm.", tool_calls=(OSLO,)), "next", tools=[waiting(begun, release)]) as (chat, _):
        for event in chat.stream("hi").events():
            if isinstance(event, ToolStarted):
                break
        assert texts(chat.history) == ["hi", "Hm.", CANCELLED, ""]
        assert chat.send("again").text == "next"
        release.set()


def test_a_cancel_of_the_answer_after_tools_keeps_calls_and_results() -> None:
    """With the part of the answer that was delivered."""
    with chatting(FakeReply(tool_calls=(OSLO,)), FakeReply(chunks=["It ", "rains"]), tools=[weather]) as (chat, _):
        for chunk in chat.stream("hi"):
            assert chunk.text == "It "
            break
        assert texts(chat.history) == ["hi", "", "Oslo: rain", "It "]


def test_an_error_after_tools_leaves_the_history_as_it_was() -> None:
    """A turn is whole or not at all."""
    with chatting(FakeReply("Hm.", tool_calls=(OSLO,)), ValueError("boom"), tools=[weather]) as (chat, _):
        with pytest.raises(RuntimeError, match="boom") as caught:
            chat.send("hi")
        assert isinstance(caught.value, BackendError)
        assert caught.value.reply is not None
        assert [item.content for item in caught.value.reply.tool_results] == ["Oslo: rain"]
        assert chat.history == ()


def test_closing_the_model_while_a_tool_runs_is_a_cancel() -> None:
    """There is nobody left to ask with its result."""

    def close() -> str:
        chat.model.close()
        return "closed"

    with chatting(FakeReply("Hm.", tool_calls=(ToolCall("close"),)), tools=[close]) as (chat, _):
        assert chat.send("hi").finish_reason == "cancelled"
        assert texts(chat.history) == ["hi", "Hm.", "closed", ""]
        with pytest.raises(ClosedError):
            chat.send("again")


def test_a_signal_like_cancel_while_the_next_request_is_sent_cancels_that_one_too() -> None:
    """A cancel that comes before the request has a handle is made up for."""
    hand = HandModel()
    chat = ChatSession(loaded(hand), tools=[weather])
    stream = chat.stream("hi")

    def cancel(request: GenerateRequest) -> None:
        stream.cancel()  # as a signal handler would: in the middle of a step, in the same thread

    hand.say("Hm.")
    hand.on_generate = cancel
    hand.end(GenerationEnded("tool_calls", tool_calls=(OSLO,)))
    assert stream.reply.finish_reason == "cancelled"
    assert hand.cancelled[-1] == 1
    assert texts(chat.history) == ["hi", "Hm.", "Oslo: rain", ""]

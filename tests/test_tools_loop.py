"""The loop of tools: calls are run, and the model is told the results and asked again; history and reply agree."""

from __future__ import annotations

import itertools
import threading
from queue import SimpleQueue
from typing import cast

import pytest

from localllm import (
    ChatSession,
    FakeReply,
    GenerateRequest,
    GenerationEnded,
    GenerationOptions,
    GenerationTimeoutError,
    InvalidOptionError,
    Message,
    OnToolCall,
    PromptProgress,
    Reply,
    ReplyEnded,
    Sink,
    StreamChunk,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolDefinition,
    ToolEnded,
    ToolError,
    ToolRefusal,
    ToolRefusedError,
    ToolStarted,
    ToolTimeoutError,
    tool,
)
from localllm.chat.history import NOT_RUN
from localllm.draft import CANCELLED
from localllm.tools.tool import Tools
from tests.by_hand import Handle, HandModel, loaded
from tests.chats import chatting, texts
from tests.weather import OSLO, ROME, called, result, weather

U = Message.user


def test_a_call_is_run_and_the_model_is_asked_again() -> None:
    """It sees the call and the result; reply and history have all of it; the figures are those of both requests."""
    with chatting(FakeReply("Let me look.", tool_calls=(OSLO,)), "It rains.", tools=[weather]) as (chat, backend):
        reply = chat.send("Weather?")
        assert (reply.text, reply.finish_reason, reply.tool_calls) == ("It rains.", "stop", ())
        assert [(item.call, item.content, item.error) for item in reply.tool_results] == [(OSLO, "Oslo: rain", None)]
        turn = (
            U("Weather?"),
            called(OSLO, text="Let me look."),
            result("Oslo: rain"),
            Message("assistant", "It rains."),
        )
        assert chat.history == turn
        assert [request.messages for request in backend.requests] == [turn[:1], turn[:3]]
        assert all(request.tools[0].name == "weather" for request in backend.requests)
        assert reply.usage.completion_tokens > len(chat.model.tokenize("It rains."))
        assert reply.usage.prompt_tokens == len(chat.model.render(turn[:3]).tokens)
        assert chat.undo() == turn
        assert not chat.history


def test_a_reply_has_the_notes_of_all_rounds() -> None:
    """Also of those before the answer; and they go the way of the reply through JSON."""

    class Noting(HandModel):
        def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
            handle = super().generate(request, sink)
            calls = (OSLO,) if len(self.requests) == 1 else ()
            notes = (f"of request {len(self.requests)}",)
            self.end(GenerationEnded("tool_calls" if calls else "stop", tool_calls=calls, notes=notes))
            return handle

    reply = ChatSession(loaded(Noting()), tools=[weather]).send("hi")
    assert reply.notes == ("of request 1", "of request 2")
    assert Reply.from_dict(reply.to_dict()).notes == reply.notes


def test_what_a_stream_tells_of_tools() -> None:
    """Each call while it is made, then its run with its result, each with the call's own index; then the answer."""
    replies = (FakeReply("Hm.", tool_calls=(OSLO,)), FakeReply(tool_calls=(ROME,)), "Wet.")
    with chatting(*replies, tools=[weather]) as (chat, _):
        events = [event for event in chat.stream("Weather?").events() if not isinstance(event, PromptProgress)]
        kinds = [type(event) for event in events]
        made = [ToolCallStarted, ToolCallDelta, ToolCallEnded, ToolStarted, ToolEnded]
        assert kinds == [StreamChunk, *made, *made, StreamChunk, ReplyEnded]
        assert [event.index for event in events if isinstance(event, (ToolStarted, ToolCallEnded))] == [0, 0, 1, 1]
        assert [event.result.content for event in events if isinstance(event, ToolEnded)] == [
            "Oslo: rain",
            "Rome: rain",
        ]
        assert [event.index for event in events if isinstance(event, StreamChunk)] == [0, 1]


def test_the_calls_of_one_reply_run_side_by_side_and_their_results_keep_the_calls_order() -> None:
    """Each waits for the other to have begun, and the first ends last."""
    both = threading.Barrier(2)
    second_done = threading.Event()

    def meet(city: str) -> str:
        both.wait(15)
        if city == "Oslo":
            assert second_done.wait(15)
        else:
            second_done.set()
        return city

    calls = (ToolCall("meet", {"city": "Oslo"}, "1"), ToolCall("meet", {"city": "Rome"}, "2"))
    with chatting(FakeReply(tool_calls=calls), "Both.", tools=[meet]) as (chat, _):
        assert [item.content for item in chat.send("hi").tool_results] == ["Oslo", "Rome"]
        assert texts(chat.history) == ["hi", "", "Oslo", "Rome", "Both."]
        assert [message.tool_call_id for message in chat.history[2:4]] == ["1", "2"]


def test_what_a_tool_raises_is_told_to_the_model_and_to_the_caller() -> None:
    """The turn goes on; the exception itself is in the reply."""
    boom = ValueError("no such city")

    def failing(city: str) -> str:
        raise boom

    call = ToolCall("failing", {"city": "Oslo"})
    with chatting(FakeReply(tool_calls=(call,)), "Sorry.", tools=[failing]) as (chat, backend):
        reply = chat.send("hi")
        assert reply.text == "Sorry."
        assert reply.tool_results[0].error is boom
        assert backend.requests[1].messages[-1] == Message("tool", "error: ValueError: no such city")


def test_exiting_is_a_tools_failure_like_others() -> None:
    """SystemExit on the tool's thread would else leave the turn waiting for ever."""

    def leave() -> None:
        raise SystemExit(3)

    with chatting(FakeReply(tool_calls=(ToolCall("leave"),)), "Still here.", tools=[leave]) as (chat, _):
        reply = chat.send("hi")
        assert reply.text == "Still here."
        assert isinstance(reply.tool_results[0].error, ToolError)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (ToolCall("wether", {"city": "Oslo"}), "there is no tool 'wether' that can be run, only weather"),
        (ToolCall("weather", {"city": 7}), "the arguments of weather do not fit: "),
        (ToolCall("weather", {}), "the arguments of weather do not fit: "),
        (ToolCall("weather", {"city": "Oslo", "day": 1}), "the arguments of weather do not fit: "),
    ],
)
def test_a_call_that_cannot_be_run_is_an_error_for_the_model(call: ToolCall, told: str) -> None:
    """No such tool, or arguments that do not fit: the model may try again."""
    with chatting(FakeReply(tool_calls=(call,)), "Oh.", tools=[weather]) as (chat, _):
        reply = chat.send("hi")
        assert reply.tool_results[0].content.startswith(f"error: {told}")
        assert isinstance(reply.tool_results[0].error, ToolError)


def test_a_tool_that_takes_too_long_is_given_up() -> None:
    """The model is told so, the turn goes on, and the late result changes nothing."""
    release = threading.Event()
    late: SimpleQueue[str] = SimpleQueue()

    def slow() -> str:
        release.wait(15)
        late.put("late")
        return "late"

    with chatting(FakeReply(tool_calls=(ToolCall("slow"),)), "Too slow.", tools=[slow], tool_timeout_s=0.01) as (
        chat,
        _,
    ):
        reply = chat.send("hi")
        assert reply.text == "Too slow."
        assert isinstance(reply.tool_results[0].error, ToolTimeoutError)
        assert chat.history[2].content == "error: the call of slow took longer than 0.01 seconds and was given up"
        release.set()
        assert late.get(timeout=15) == "late"
        assert texts(chat.history)[-1] == "Too slow."


def test_the_time_limit_of_a_turn_counts_its_tools() -> None:
    """A tool that outlasts it ends the turn as a time-out; what was said before is kept, the call with its error."""
    release = threading.Event()
    with chatting(
        FakeReply("Wait.", tool_calls=(ToolCall("slow"),)), tools=[tool(lambda: release.wait(15), name="slow")]
    ) as (chat, backend):
        with pytest.raises(GenerationTimeoutError) as caught:
            chat.send("hi", timeout_s=0.2)
        release.set()
        assert len(backend.requests) == 1
        assert caught.value.reply is not None
        assert caught.value.reply.finish_reason == "timeout"
        assert [message.role for message in chat.history] == ["user", "assistant", "tool", "assistant"]
        assert chat.history[-1].finish_reason == "timeout"
        assert "was given up" in chat.history[2].content


def test_a_hook_approves_changes_and_refuses() -> None:
    """In the thread that waits; the model sees its own call, and the result of what was run."""
    asked: list[tuple[ToolCall, str]] = []

    def hook(call: ToolCall) -> ToolCall | ToolRefusal | str | None:
        asked.append((call, threading.current_thread().name))
        match call.arguments["city"]:
            case "Oslo":
                return None
            case "Rome":
                return ToolCall("weather", {"city": "Milan"})
            case "Paris":
                return ToolRefusal("not there")
            case _:
                return "nor there"

    calls = tuple(ToolCall("weather", {"city": city}, city) for city in ("Oslo", "Rome", "Paris", "Bonn"))
    with chatting(FakeReply(tool_calls=calls), "Done.", tools=[weather], on_tool_call=hook) as (chat, _):
        results = chat.send("hi").tool_results
        assert [item.content for item in results] == [
            "Oslo: rain",
            "Milan: rain",
            "error: the call was refused: not there",
            "error: the call was refused: nor there",
        ]
        assert [type(item.error) for item in results] == [type(None), type(None), ToolRefusedError, ToolRefusedError]
        assert results[1].call == ToolCall("weather", {"city": "Milan"}, "Rome")
        assert chat.history[1].tool_calls == calls
        assert asked == [(call, threading.current_thread().name) for call in calls]


def test_a_refused_call_is_not_told_as_started() -> None:
    """Only its end is."""
    with chatting(FakeReply(tool_calls=(OSLO,)), "Well.", tools=[weather], on_tool_call=lambda call: ToolRefusal()) as (
        chat,
        _,
    ):
        told = [event for event in chat.stream("hi").events() if isinstance(event, (ToolStarted, ToolEnded))]
        assert [type(event) for event in told] == [ToolEnded]


def test_what_a_hook_raises_is_raised_where_the_reply_is_waited_for() -> None:
    """The call is not run, and the turn counts as cancelled."""
    ran: list[str] = []

    def look(city: str) -> str:
        ran.append(city)
        return city

    def hook(call: ToolCall) -> None:
        raise ZeroDivisionError("in the hook")

    ask = FakeReply("Hm.", tool_calls=(ToolCall("look", {"city": "Oslo"}),))
    with chatting(ask, "next", tools=[look], on_tool_call=hook) as (chat, _):
        with pytest.raises(ZeroDivisionError, match="in the hook"):
            chat.send("hi")
        assert [message.role for message in chat.history] == ["user", "assistant", "tool", "assistant"]
        assert (chat.history[2].content, chat.history[3].finish_reason) == (CANCELLED, "cancelled")
        assert ran == []
        assert chat.send("again").text == "next"


def test_a_hook_with_another_answer_runs_nothing() -> None:
    """False is no approval, nor True: the error says what is."""
    for answer in (False, True, 7):
        hook = cast("OnToolCall", lambda call, said=answer: said)
        with chatting(FakeReply(tool_calls=(OSLO,)), tools=[weather], on_tool_call=hook) as (chat, backend):
            with pytest.raises(InvalidOptionError, match=r"on_tool_call must return None"):
                chat.send("hi")
            assert len(backend.requests) == 1
            assert chat.history == ()


def test_an_endless_loop_is_bounded() -> None:
    """After the last round the model is asked for an answer without calls; calls all the same are the reply."""
    ran: list[str] = []

    def look(city: str) -> str:
        ran.append(city)
        return city

    call = ToolCall("look", {"city": "Oslo"}, "1")
    script = itertools.repeat(FakeReply(tool_calls=(call,)), 4)
    with chatting(*script, "Fine.", tools=[look], max_tool_rounds=3) as (chat, backend):
        reply = chat.send("hi")
        assert (reply.finish_reason, reply.tool_calls, len(reply.tool_results)) == ("tool_calls", (call,), 3)
        assert len(ran) == 3
        assert [request.options.tool_choice for request in backend.requests] == ["auto", "auto", "auto", "none"]
        assert chat.send("go on").text == "Fine."
        assert backend.requests[-1].messages[-2:] == (result(NOT_RUN, call), U("go on"))


def test_a_choice_that_asks_for_calls_holds_for_the_first_request() -> None:
    """Else there would be no answer; "none" holds for all, and a name must be a tool's."""
    call = ToolCall("weather", {"city": "Oslo"})
    with chatting(FakeReply(tool_calls=(call,)), "Rain.", "No.", tools=[weather]) as (chat, backend):
        chat.send("hi", tool_choice="weather")
        chat.send("hi", tool_choice="none")
        assert [request.options.tool_choice for request in backend.requests] == ["weather", "auto", "none"]
        with pytest.raises(InvalidOptionError, match="tool_choice must be 'auto', 'none', 'required' or a tool's name"):
            chat.send("hi", tool_choice="wether")
    with chatting() as (chat, _), pytest.raises(InvalidOptionError, match="the session has no tools"):
        chat.send("hi", tool_choice="required")


def test_calls_are_returned_to_who_runs_them() -> None:
    """With run_tools=False, for tools without a function, and with no round allowed; a tool message then answers."""
    ask = FakeReply(tool_calls=(OSLO,))
    ways: list[tuple[Tools, GenerationOptions]] = [
        ([weather], {"run_tools": False}),
        ([ToolDefinition("weather")], {}),
        ([weather], {"max_tool_rounds": 0}),
    ]
    for tools, options in ways:
        with chatting(ask, "It rains.", tools=tools, **options) as (chat, backend):
            reply = chat.send("hi")
            assert (reply.finish_reason, reply.tool_calls, reply.tool_results) == ("tool_calls", (OSLO,), ())
            assert chat.send(result("rain")).text == "It rains."
            assert chat.history == (U("hi"), called(OSLO), result("rain"), Message("assistant", "It rains."))
            assert backend.requests[1].messages == chat.history[:3]


def test_calls_that_nobody_answered_get_a_result_when_the_chat_goes_on() -> None:
    """One for each, so that the model and its template see none without; those answered keep theirs."""
    ask = FakeReply(tool_calls=(OSLO, ROME))
    with chatting(ask, "One.", ask, "Two.", run_tools=False, tools=[weather]) as (chat, _):
        chat.send("hi")
        chat.send([result("rain", ROME)])
        assert chat.history[2:4] == (result("rain", ROME), result(NOT_RUN))
        chat.send("again")
        chat.send("never mind")
        assert chat.history[-4:-1] == (result(NOT_RUN), result(NOT_RUN, ROME), U("never mind"))
        assert chat.undo()[-2:] == (U("never mind"), Message("assistant", "Two."))


def test_regenerate_replaces_the_whole_answer() -> None:
    """Calls and results, too; a fork has tools of its own."""
    with chatting(
        FakeReply(tool_calls=(OSLO,)), "One.", "Two.", FakeReply(tool_calls=(ROME,)), "Three.", tools=[weather]
    ) as (
        chat,
        backend,
    ):
        chat.send("hi")
        assert chat.regenerate().text == "Two."
        assert chat.history == (U("hi"), Message("assistant", "Two."))
        assert backend.requests[2].messages == (U("hi"),)
        forked = chat.fork()
        assert forked.send("again").tool_results[0].content == "Rome: rain"
        assert len(forked.undo()) == 4
        assert forked.history == chat.history


def test_a_given_history_with_tools_is_regenerated_as_a_whole() -> None:
    """The same turns as if they had been asked here."""
    history = [U("hi"), called(OSLO), result("rain"), called(ROME), result("sun", ROME), Message("assistant", "Mixed.")]
    with chatting("New.", history=history) as (chat, _):
        chat.regenerate()
        assert texts(chat.history) == ["hi", "New."]
        assert len(chat.undo()) == 2


def test_preload_tells_the_tools() -> None:
    """They are part of the prompt that is read ahead."""
    hand = HandModel()
    ChatSession(loaded(hand), tools=[weather]).preload("Wea")
    assert hand.requests[0].tools[0].name == "weather"

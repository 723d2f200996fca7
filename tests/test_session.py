"""`ChatSession`: replies, prompts, options, the history and what changes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import cast

import pytest

from localllm import (
    AsyncModel,
    BackendError,
    ChatSession,
    ClosedError,
    FakeBackend,
    FakeReply,
    GenerateRequest,
    GenerationTimeoutError,
    InvalidOptionError,
    InvalidPromptError,
    Message,
    Model,
    ModelConfig,
    ModelManager,
    SessionBusyError,
    ToolCall,
    UnknownOptionError,
)
from localllm.testing import ManualClock
from tests.by_hand import HandModel, loaded
from tests.chats import chatting, in_thread, texts

U, S = Message.user, Message.system


def A(text: str) -> Message:  # noqa: N802
    """Return a message from the model."""
    return Message("assistant", text)


def test_send_returns_the_whole_reply_and_keeps_the_turn() -> None:
    """A reply has text, message, reason, usage and timings; the history has the turn; the model saw the prompt."""
    with chatting("Hello there", system="Be terse.") as (chat, backend):
        reply = chat.send("Hi")
        assert (reply.text, reply.finish_reason, reply.thought, reply.tool_calls) == ("Hello there", "stop", None, ())
        assert reply.message == A("Hello there")
        assert reply.message.finish_reason == "stop"
        assert reply.usage.completion_tokens == 2
        assert reply.timings.first_token_s > 0
        assert chat.history == (S("Be terse."), U("Hi"), A("Hello there"))
        assert backend.requests[0].messages == (S("Be terse."), U("Hi"))


def test_the_second_turn_finds_the_first_in_the_cache() -> None:
    """What was generated goes back to the model as the tokens it was, so only the new message is read."""
    with chatting("Hello there", "Fine") as (chat, backend):
        first = chat.send("Hi").usage
        second = chat.send("How are you?").usage
        assert second.cached_tokens >= first.prompt_tokens + first.completion_tokens
        assert chat.history[1].token_ids is not None
        assert backend.requests[1].messages[1].token_ids == chat.history[1].token_ids


def test_a_reply_without_text_is_a_turn_all_the_same() -> None:
    """The model may answer nothing; the history stays in step."""
    with chatting("") as (chat, _):
        assert chat.send("Hi").text == ""
        assert chat.history == (U("Hi"), A(""))


def test_tool_calls_are_part_of_reply_and_history() -> None:
    """A reply that asks for calls ends with them, and a tool message answers."""
    call = ToolCall("weather", {"city": "Oslo"}, "1")
    with chatting(FakeReply("Let me look.", tool_calls=(call,)), "It rains.") as (chat, _):
        reply = chat.send("Weather?")
        assert (reply.finish_reason, reply.tool_calls, reply.message.tool_calls) == ("tool_calls", (call,), (call,))
        chat.send(Message("tool", "rain", tool_call_id="1"))
        assert texts(chat.history) == ["Weather?", "Let me look.", "rain", "It rains."]


def test_options_of_a_call_go_over_those_of_the_session() -> None:
    """Per call over per session over the defaults; the session's own stay as they were given."""
    stop = ["x"]
    with chatting("a", "b", "c", temperature=0.5, stop=stop) as (chat, backend):
        stop.append("y")
        chat.send("1", temperature=0.1, seed=7)
        chat.send("2")
        chat.fork().send("3")
        used = [request.options for request in backend.requests]
        assert [(o.temperature, o.seed, o.stop, o.top_k) for o in used] == [
            (0.1, 7, ("x",), 40),
            (0.5, None, ("x",), 40),
            (0.5, None, ("x",), 40),
        ]


def test_bad_options_are_refused_before_anything_is_sent() -> None:
    """By the constructor, `send`, `stream`, `regenerate` and `stream_regenerate`; a typo names the nearest option."""
    with chatting("fine") as (chat, backend):
        chat.send("Hi")
        calls: list[Callable[..., object]] = [
            partial(ChatSession, chat.model),
            partial(chat.send, "Hi"),
            partial(chat.stream, "Hi"),
            chat.regenerate,
            chat.stream_regenerate,
        ]
        for call in calls:
            with pytest.raises(UnknownOptionError, match=r"unknown option 'temprature'; did you mean 'temperature'\?"):
                call(temprature=1.0)
            with pytest.raises(InvalidOptionError, match="temperature must be a number at least 0"):
                call(temperature=-1.0)
        assert len(backend.requests) == 1


def test_overflow_is_a_policy_or_a_function() -> None:
    """Anything else is refused with what is allowed."""
    with chatting("fine") as (chat, _):
        ChatSession(chat.model, overflow="error")
        ChatSession(chat.model, overflow=lambda window: window.messages[-1:])
        with pytest.raises(InvalidOptionError, match="'drop_oldest', 'summarize' or a function; got 'drop'"):
            ChatSession(chat.model, overflow="drop")  # type: ignore[arg-type]


def test_a_session_wants_a_model_of_its_kind() -> None:
    """An async model, or something else, is refused with what to use."""
    with chatting("fine") as (chat, _):
        for wrong in (AsyncModel(chat.model), "smollm2-135m"):
            with pytest.raises(InvalidOptionError, match=r"model must be a Model, .* use AsyncChatSession"):
                ChatSession(cast("Model", wrong))


def test_a_prompt_longer_than_the_context_leaves_the_history() -> None:
    """The error has both counts."""
    with chatting("fine", config=ModelConfig(n_ctx=16)) as (chat, _):
        with pytest.raises(ValueError, match=r"\d+ tokens .* 16") as caught:
            chat.send("word " * 50)
        assert getattr(caught.value, "context_tokens", 0) == 16
        assert chat.history == ()


def test_send_raises_on_a_time_out_and_keeps_the_partial_reply() -> None:
    """With the partial reply in the exception and in the history."""
    clock = ManualClock(auto_advance=True)
    with chatting(FakeReply(chunks=["a", "b", "c"], delay_s=1), clock=clock, timeout_s=2.5) as (chat, _):
        with pytest.raises(GenerationTimeoutError) as caught:
            chat.send("hi")
        assert caught.value.reply is not None
        assert caught.value.reply.text == "ab"
        assert caught.value.reply.message is chat.history[-1]
        assert texts(chat.history) == ["hi", "ab"]


def test_send_raises_an_error_and_leaves_the_history() -> None:
    """With the partial reply in the exception; the next turn works."""
    with chatting(FakeReply(chunks=["a", "b"], error=ValueError("boom"), error_at=1), "fine") as (chat, _):
        with pytest.raises(BackendError, match="boom") as caught:
            chat.send("hi")
        assert caught.value.reply is not None
        assert caught.value.reply.text == "a"
        assert chat.history == ()
        assert chat.send("hi").text == "fine"


def test_one_session_used_by_two_gets_a_clear_error() -> None:
    """Whatever the second one wants to change; forks and reading the history are free; the first is not disturbed."""
    with chatting("one two", "forked", "later", system="s") as (chat, _):
        stream = chat.stream("hi")
        next(stream)
        for call in (
            lambda: chat.send("x"),
            lambda: chat.stream("x"),
            chat.undo,
            chat.reset,
            chat.preload,
        ):
            with pytest.raises(SessionBusyError, match=r"fork\(\) or another session"):
                call()
        assert chat.history == (S("s"),)
        assert chat.fork().send("y").text == "forked"
        assert stream.reply.text == "one two"
        assert chat.send("z").text == "later"


def test_two_threads_on_one_session_get_one_reply_and_one_error() -> None:
    """A send that waits for its reply keeps the session busy."""
    clock = ManualClock()
    with chatting(FakeReply("slow", delay_s=1), clock=clock) as (chat, _):
        replies: SimpleQueue[str] = SimpleQueue()
        wait = in_thread(lambda: replies.put(chat.send("hi").text))
        clock.wait_until_blocked()
        with pytest.raises(SessionBusyError):
            chat.send("hi")
        clock.advance(1)
        assert wait() is None
        assert replies.get_nowait() == "slow"


def test_many_sessions_of_one_model_talk_at_once() -> None:
    """Each gets its own replies, however many threads ask."""

    def answers() -> Iterator[str]:
        while True:
            yield f"re: {backend.requests[-1].messages[-1].content}"

    backend = FakeBackend(answers())
    with ModelManager(backend) as models:
        model = models.load("fake", config=ModelConfig(n_parallel=4))
        sessions = [ChatSession(model) for _ in range(12)]

        def talk(number: int) -> None:
            for turn in range(10):
                assert sessions[number].send(f"{number}.{turn}").text == f"re: {number}.{turn}"

        waits = [in_thread(partial(talk, number)) for number in range(12)]
        assert [wait() for wait in waits] == [None] * 12
        assert [len(session.history) for session in sessions] == [20] * 12


def test_regenerate_answers_the_last_prompt_again() -> None:
    """The reply is replaced; the model does not see the old one; options count."""
    with chatting("one", "two", "three") as (chat, backend):
        chat.send("hi")
        assert chat.regenerate(seed=3).text == "two"
        assert chat.history == (U("hi"), A("two"))
        assert backend.requests[1].messages == (U("hi"),)
        assert backend.requests[1].options.seed == 3
        assert [chunk.text for chunk in chat.stream_regenerate()] == ["three"]
        assert chat.history == (U("hi"), A("three"))
        assert chat.undo() == (U("hi"), A("three"))


def test_a_failed_or_empty_regenerate_leaves_the_old_reply() -> None:
    """An error, or a cancel before any text; after some text the partial reply takes its place."""
    failing = FakeReply(chunks=["x", "y"], error=ValueError("boom"), error_at=1)
    with chatting("old", failing, "never", FakeReply(chunks=["new", "er"])) as (chat, _):
        chat.send("hi")
        with pytest.raises(BackendError):
            chat.regenerate()
        chat.stream_regenerate().cancel()
        assert chat.history == (U("hi"), A("old"))
        for _ in chat.stream_regenerate():
            break
        assert chat.history == (U("hi"), A("new"))


@pytest.mark.parametrize(
    "history", [[], [S("s")], [U("a")], [A("hello")], [S("s"), A("hello")], [U("a"), A("b"), A("c")]], ids=repr
)
def test_nothing_to_regenerate_is_an_error(history: list[Message]) -> None:
    """Where the history does not end with a reply to something."""
    with chatting(history=history) as (chat, _):
        for call in (chat.regenerate, chat.stream_regenerate):
            with pytest.raises(InvalidPromptError, match="regenerate"):
                call()
        assert chat.history == tuple(history)


def test_fork_goes_on_alone() -> None:
    """Both know what came before, neither sees what comes after; a subclass stays one."""

    class Mine(ChatSession):
        tag = "none"

    with chatting("one", "two", "three") as (chat, _):
        mine = Mine(chat.model)
        mine.tag = "mine"
        mine.send("a")
        other = mine.fork()
        assert type(other) is Mine
        assert other.tag == "mine"
        other.send("b")
        mine.undo()
        assert texts(other.history) == ["a", "one", "b", "two"]
        assert mine.history == ()
        assert len(other.undo()) == 2


def test_undo_takes_back_turn_by_turn() -> None:
    """The whole of a sequence and its reply, then nothing; the system message stays."""
    with chatting("one", "two", system="s") as (chat, _):
        chat.send("a")
        chat.send([U("b"), A("c"), U("d")])
        assert chat.undo() == (U("b"), A("c"), U("d"), A("two"))
        assert chat.undo() == (U("a"), A("one"))
        assert chat.undo() == ()
        assert chat.history == (S("s"),)


def test_undo_knows_the_turns_of_a_given_history() -> None:
    """A turn begins with the first of neighbouring user messages; a greeting belongs to none."""
    history = [A("Hello!"), U("a"), U("b"), A("c"), Message("tool", "t"), A("d")]
    with chatting(history=history) as (chat, _):
        assert chat.undo() == tuple(history[1:])
        assert chat.undo() == ()
        assert chat.history == (A("Hello!"),)


def test_reset_keeps_the_system_message() -> None:
    """And nothing else."""
    with chatting("one", "two", system="s") as (chat, _):
        chat.send("a")
        chat.reset()
        assert chat.history == (S("s"),)
        assert chat.undo() == ()
        chat.send("b")
        assert texts(chat.history) == ["s", "b", "two"]
    with chatting("one") as (chat, _):
        chat.send("a")
        chat.reset()
        assert chat.history == ()


def test_a_closed_model_is_said_to_be_closed() -> None:
    """By every call that needs it; the history can still be read."""
    with chatting("one") as (chat, _):
        chat.send("a")
        chat.model.close()
        for call in (
            lambda: chat.send("b"),
            lambda: chat.stream("b"),
            chat.regenerate,
            chat.stream_regenerate,
            chat.preload,
        ):
            with pytest.raises(ClosedError, match="is closed; load it again"):
                call()
        assert chat.history == (U("a"), A("one"))
        assert len(chat.undo()) == 2


def test_closing_the_model_ends_a_send_as_cancelled() -> None:
    """Who waits gets what there was, as a reply."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as (chat, _):
        replies: SimpleQueue[tuple[str, str]] = SimpleQueue()

        def ask() -> None:
            reply = chat.send("hi")
            replies.put((reply.text, reply.finish_reason))

        wait = in_thread(ask)
        clock.wait_until_blocked()
        clock.advance(1)
        clock.wait_until_blocked()
        chat.model.close()
        assert wait() is None
        assert replies.get_nowait() == ("a", "cancelled")


def test_a_backend_that_breaks_the_rules_is_translated() -> None:
    """A foreign exception from `generate` becomes a BackendError with its cause, and the session stays free."""

    def explode(request: GenerateRequest) -> None:
        raise KeyError("surprise")

    chat = ChatSession(loaded(HandModel(explode)))
    for _ in range(2):
        with pytest.raises(BackendError, match=r"'hand' failed in generate: KeyError: 'surprise'") as caught:
            chat.send("a")
        assert isinstance(caught.value.__cause__, KeyError)
        assert caught.value.reply is None
    assert chat.history == ()

"""What goes beyond question and answer: a reply that is continued, one with a prefix, and several to choose from."""

from __future__ import annotations

import asyncio
from typing import Literal, cast

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    BackendError,
    FakeBackend,
    FakeReply,
    InvalidOptionError,
    InvalidPromptError,
    Message,
    ModelConfig,
    SessionBusyError,
    ToolCall,
)
from localllm.testing import ManualClock
from tests.chats import chatting, texts

U = Message.user


def A(text: str) -> Message:  # noqa: N802
    """Return a message from the model."""
    return Message("assistant", text)


def test_a_reply_that_was_cut_off_is_continued() -> None:
    """The model goes on from what there was, and the joined message takes its place."""
    with chatting("one two three", " four five", " six") as (chat, backend):
        assert chat.send("count", max_tokens=2).text == "one two"
        reply = chat.continue_reply(max_tokens=1)
        assert (reply.text, reply.finish_reason) == ("one two four", "length")
        assert chat.continue_reply().text == "one two four six"
        assert chat.history == (U("count"), A("one two four six"))
        assert [request.prefix for request in backend.requests] == ["", "one two", "one two four"]
        assert all(request.messages == (U("count"),) for request in backend.requests)
        assert len(chat.undo()) == 2


def test_a_continuation_can_be_streamed() -> None:
    """The chunks are the new text, the reply is all of it."""
    with chatting(FakeReply(chunks=["a", "b", "c"]), FakeReply(chunks=["x", "y"])) as (chat, _):
        for chunk in chat.stream("hi"):
            if chunk.text == "b":
                break
        stream = chat.stream_continue()
        assert [chunk.text for chunk in stream] == ["x", "y"]
        assert stream.reply.text == "abxy"
        assert texts(chat.history) == ["hi", "abxy"]
        assert chat.history[-1].finish_reason == "stop"


def test_a_thought_stays_with_the_reply_that_is_continued() -> None:
    """It was thought before the text; what was cut off while thinking is begun anew."""
    script = (FakeReply("one two", thought="hm"), " three", FakeReply("x", thought="long thought"), "y")
    with chatting(*script) as (chat, backend):
        chat.send("hi", max_tokens=2)
        assert (chat.history[-1].content, chat.history[-1].thought) == ("one", "hm")
        assert chat.continue_reply().thought == "hm"
        chat.send("more", max_tokens=1)
        assert (chat.history[-1].content, chat.history[-1].thought) == ("", "long")
        reply = chat.continue_reply()
        assert (reply.text, reply.thought, backend.requests[-1].prefix) == ("y", None, "")


def test_a_continuation_that_brings_nothing_leaves_the_reply_as_it_was() -> None:
    """Cancelled before any new text, or failed."""
    with chatting("one two", "never", ValueError("boom")) as (chat, _):
        chat.send("hi", max_tokens=1)
        before = chat.history
        chat.stream_continue().cancel()
        with pytest.raises(BackendError):
            chat.continue_reply()
        assert chat.history == before
        assert chat.history[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "there is no reply to continue"),
        ([U("a")], "there is no reply to continue"),
        ([U("a"), Message("assistant", "b", finish_reason="stop")], "it ended with 'stop'"),
        ([U("a"), A("b")], "it ended with None"),
        (
            [U("a"), Message("assistant", "b", finish_reason="length", tool_calls=[ToolCall("x")])],
            "the last reply was not cut off",
        ),
    ],
)
def test_only_what_was_cut_off_can_be_continued(history: list[Message], message: str) -> None:
    """The error says what the last reply is."""
    with chatting("never", history=history) as (chat, _):
        for call in (chat.continue_reply, chat.stream_continue):
            with pytest.raises(InvalidPromptError, match=message):
                call()
        assert chat.history == tuple(history)


def test_a_restored_history_can_be_continued() -> None:
    """Its messages know how they ended."""
    saved = [Message.from_dict(Message("assistant", "one", finish_reason="timeout").to_dict())]
    with chatting(" two", history=[U("hi"), *saved]) as (chat, _):
        assert chat.continue_reply().text == "one two"


def test_an_answer_after_tools_is_continued() -> None:
    """The calls and their results stay."""

    def look() -> str:
        return "seen"

    with chatting(FakeReply(tool_calls=(ToolCall("look"),)), "one two", " three", tools=[look]) as (chat, backend):
        chat.send("hi", max_tokens=1)
        assert chat.continue_reply().text == "one three"
        assert texts(chat.history) == ["hi", "", "seen", "one three"]
        assert len(backend.requests[-1].messages) == 3
        assert len(chat.undo()) == 4


def test_a_prefix_is_the_beginning_of_the_reply() -> None:
    """Of its text and of the history, not of the chunks; before any text there is no turn."""
    with chatting(FakeReply(chunks=["course", "!"]), FakeReply(chunks=["x"])) as (chat, backend):
        stream = chat.stream("hi", prefix="Of ")
        assert [chunk.text for chunk in stream] == ["course", "!"]
        assert (stream.reply.text, texts(chat.history)) == ("Of course!", ["hi", "Of course!"])
        assert backend.requests[0].prefix == "Of "
        assert chat.history[-1].token_ids is None
        other = chat.stream("hi", prefix="Of ")
        other.cancel()
        assert len(chat.history) == 2
        for wrong in (7, None, "\ud800"):
            with pytest.raises(InvalidPromptError, match="the prefix"):
                chat.send("hi", prefix=cast("str", wrong))


def test_alternatives_are_several_replies_to_one_prompt() -> None:
    """None is kept until one is chosen, and then as if it had been the only one."""
    with chatting("one", "two", "three", "more", config=ModelConfig(n_parallel=3)) as (chat, backend):
        replies = chat.alternatives("hi", 3, seed=5)
        assert sorted(reply.text for reply in replies) == ["one", "three", "two"]
        assert not chat.history
        assert [request.options.seed for request in backend.requests] == [5, 6, 7]
        assert {request.messages for request in backend.requests} == {(U("hi"),)}
        chat.choose(replies[1])
        assert chat.history == (U("hi"), replies[1].message)
        assert chat.send("go on").text == "more"
        assert backend.requests[-1].messages == (U("hi"), replies[1].message, U("go on"))
        with pytest.raises(InvalidPromptError, match="none of the last alternatives"):
            chat.choose(replies[0])


@pytest.mark.parametrize("change", ["send", "undo", "reset", "fork"])
def test_alternatives_are_off_once_the_session_has_gone_on(change: Literal["send", "undo", "reset", "fork"]) -> None:
    """They belonged to what it was."""
    with chatting("a", "b", "c") as (chat, _):
        replies = chat.alternatives("hi", 2)
        other = chat.fork() if change == "fork" else chat
        if change == "send":
            chat.send("else")
        elif change != "fork":
            getattr(chat, change)()
        with pytest.raises(InvalidPromptError):
            other.choose(replies[0])


def test_alternatives_return_calls() -> None:
    """They are not run: what they do would be done several times."""
    ran: list[int] = []

    def look() -> None:
        ran.append(1)

    ask = FakeReply(tool_calls=(ToolCall("look"),))
    with chatting(ask, ask, tools=[look]) as (chat, _):
        assert [reply.finish_reason for reply in chat.alternatives("hi", 2)] == ["tool_calls"] * 2
        assert ran == []


def test_one_failed_alternative_fails_all() -> None:
    """The others are cancelled, and the session is free."""
    clock = ManualClock()
    script = (FakeReply("slow", delay_s=1e6), ValueError("boom"), "next")
    with chatting(*script, clock=clock, config=ModelConfig(n_parallel=2)) as (chat, _):
        with pytest.raises(BackendError, match="boom"):
            chat.alternatives("hi", 2)
        assert chat.send("again").text == "next"


def test_the_session_is_busy_with_alternatives_and_their_number_is_checked() -> None:
    """A stream that is under way refuses them; 0 of them, or 1.5, make no sense."""
    with chatting("one two", "b") as (chat, _):
        for wrong in (0, 101, 1.5, True, "3"):
            with pytest.raises(InvalidOptionError, match="n must be an integer from 1 to 100"):
                chat.alternatives("hi", cast("int", wrong))
        stream = chat.stream("hi")
        next(stream)
        with pytest.raises(SessionBusyError):
            chat.alternatives("hi", 2)
        stream.cancel()


def test_the_async_twin_does_the_same() -> None:
    """Awaited."""

    async def main() -> None:
        backend = FakeBackend(["one two", " three", FakeReply(chunks=[" four"]), "a", "b", "c"])
        async with AsyncModelManager(backend) as models:
            chat = AsyncChatSession(await models.load("fake", config=ModelConfig(n_parallel=2)))
            await chat.send("hi", max_tokens=1)
            assert (await chat.continue_reply(max_tokens=1)).text == "one three"
            stream = chat.stream_continue()
            assert [chunk.text async for chunk in stream] == [" four"]
            replies = await chat.alternatives("again", 2)
            assert len(chat.history) == 2
            await chat.choose(replies[0])
            assert chat.history[-1] is replies[0].message
            assert (await chat.send("more", prefix="x")).text == "xc"
            with pytest.raises(InvalidOptionError):
                await chat.alternatives("again", 0)

    asyncio.run(asyncio.wait_for(main(), 15))

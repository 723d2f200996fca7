"""Conversations longer than the context window: what each policy leaves out, what stays, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    ChatSession,
    ContextOverflowError,
    FakeBackend,
    FakeReply,
    Message,
    MessagesDropped,
    ModelConfig,
    ModelManager,
    StreamChunk,
    ToolCall,
)
from localllm.chat.history import History, Window
from localllm.chat.overflow import KEEP, Shortening, first_where
from tests.by_hand import HandModel, loaded
from tests.chats import chatting, texts

U, S = Message.user, Message.system
SMALL = ModelConfig(n_ctx=200)


def A(text: str) -> Message:  # noqa: N802
    """Return a message from the model."""
    return Message("assistant", text)


def numbered(turns: int) -> list[Message]:
    """Return a conversation whose turns can be told apart, of about ten words each."""
    return [
        message
        for turn in range(turns)
        for message in (U(f"question {turn} of some words"), A(f"answer {turn} of some words"))
    ]


def test_the_policy_error_is_an_error() -> None:
    """Nothing is left out, and the history stays."""
    with chatting("never", config=SMALL, history=numbered(40)) as (chat, backend):
        with pytest.raises(ContextOverflowError):
            chat.send("hi")
        assert len(chat.history) == 80
        assert len(backend.requests) == 1


def test_drop_oldest_leaves_out_whole_turns() -> None:
    """The system message and the newest turn stay, what is left is under way to the end, and the order holds."""
    with chatting("fine", config=SMALL, system="Be terse.", history=numbered(40), overflow="drop_oldest") as (
        chat,
        backend,
    ):
        reply = chat.send("hi")
        sent = backend.requests[-1].messages
        left = len(reply.dropped) + 1
        assert reply.text == "fine"
        assert reply.dropped == chat.history[1:left]
        assert sent == (S("Be terse."), *chat.history[left:-1])
        assert sent[1].role == "user"
        assert len(chat.history) == 83
        assert 0.4 * 150 < reply.usage.prompt_tokens <= KEEP * 150


def test_after_a_drop_the_next_turns_have_the_same_beginning() -> None:
    """So that they find it in the cache; each turn tells what it dropped itself."""
    with chatting(*["fine"] * 60, config=SMALL, system="s", overflow="drop_oldest") as (chat, backend):
        dropping = 0
        for turn in range(60):
            reply = chat.send(f"question {turn} of some words")
            before, now = (request.messages for request in backend.requests[-2:]) if turn else ((), ())
            if reply.dropped:
                dropping += 1
                assert now[0] == S("s")
            elif turn:
                assert now[: len(before)] == before
                assert reply.usage.cached_tokens > 0.8 * (reply.usage.prompt_tokens - 20)
            assert reply.usage.prompt_tokens + 50 <= 200  # a quarter is left for the reply
        assert 3 <= dropping <= 15
        assert texts(chat.history)[1::2] == [f"question {turn} of some words" for turn in range(60)]


def test_an_event_tells_what_was_dropped() -> None:
    """Before the reply's first chunk, once."""
    with chatting("fine", config=SMALL, history=numbered(40), overflow="drop_oldest") as (chat, _):
        stream = chat.stream("hi")
        events = [event for event in stream.events() if isinstance(event, (MessagesDropped, StreamChunk))]
        assert [type(event) for event in events] == [MessagesDropped, StreamChunk]
        assert events[0] == MessagesDropped(stream.reply.dropped)


def test_a_newest_turn_that_is_too_long_alone_is_an_error() -> None:
    """There is nothing left to drop; the history stays as it was, what had been dropped included."""
    with chatting("never", "fine", config=SMALL, history=numbered(3), overflow="drop_oldest") as (chat, _):
        with pytest.raises(ContextOverflowError, match="the context window holds 200"):
            chat.send("word " * 300)
        assert len(chat.history) == 6
        assert chat.send("hi").dropped == ()


def test_a_newest_turn_that_leaves_little_room_drops_all_others() -> None:
    """It fits alone, so it is asked alone."""
    with chatting("fine", config=SMALL, history=numbered(3), overflow="drop_oldest") as (chat, backend):
        assert len(chat.send("word " * 170).dropped) == 6
        assert len(backend.requests[-1].messages) == 1


def test_undo_and_reset_give_room_again() -> None:
    """What was left out is read again once what came after it is taken back."""
    with chatting(*["fine"] * 9, config=SMALL, overflow="drop_oldest") as (chat, backend):
        chat.send("first")
        assert chat.send("word " * 170).dropped == (U("first"), A("fine"))
        chat.undo()
        chat.send("again")
        assert texts(backend.requests[-1].messages) == ["first", "fine", "again"]
        chat.send("word " * 170)
        chat.reset()
        chat.send("new")
        assert texts(backend.requests[-1].messages) == ["new"]


def test_regenerate_and_a_fork_keep_what_was_left_out() -> None:
    """They go on from the same window."""
    with chatting(*["fine"] * 9, config=SMALL, history=numbered(40), overflow="drop_oldest") as (chat, backend):
        chat.send("hi")
        first = backend.requests[-1].messages
        assert chat.regenerate().dropped == ()
        assert backend.requests[-1].messages == first
        chat.fork().send("more")
        assert backend.requests[-1].messages == (*first, A("fine"), U("more"))
        chat.preload("mo")


def test_a_cancelled_turn_before_any_text_drops_nothing() -> None:
    """The history is as it was, and with it what is read of it."""
    with chatting("never", "fine", config=SMALL, history=numbered(40), overflow="drop_oldest") as (chat, _):
        stream = chat.stream("hi")
        for event in stream.events():
            if isinstance(event, MessagesDropped):
                stream.cancel()
        assert len(chat.history) == 80
        assert chat.send("hi").dropped == stream.reply.dropped


def test_calls_stay_with_their_results() -> None:
    """No prompt begins between them, be they turns of their own; tools that run have room made in mid-turn."""
    turns = [
        message
        for turn in range(30)
        for message in (
            U(f"question {turn}"),
            Message("assistant", "", tool_calls=[ToolCall("look", {"n": turn}, str(turn))]),
            Message("tool", f"result {turn} of words", tool_call_id=str(turn)),
            A(f"answer {turn}"),
        )
    ]

    def look(n: int) -> str:
        return "word " * 60

    ask = FakeReply(tool_calls=(ToolCall("look", {"n": 1}, "x"),))
    with chatting(ask, "fine", config=ModelConfig(n_ctx=400), history=turns, tools=[look], overflow="drop_oldest") as (
        chat,
        backend,
    ):
        reply = chat.send("hi")
        for request in backend.requests:
            assert request.messages[0].role == "user"
            calls = [call.id for message in request.messages for call in message.tool_calls]
            assert [message.tool_call_id for message in request.messages if message.role == "tool"] == calls
        assert texts(backend.requests[-1].messages[-3:])[0] == "hi"
        assert len(reply.dropped) % 4 == 0
        assert len(chat.history) == 124
    history = (
        History.of(None, [U("a"), A("b")]).asked("c").answered(Message("assistant", "", tool_calls=[ToolCall("x")]))
    )
    assert history.asked(Message("tool", "t")).cuts == (2,)


def test_a_long_conversation_with_tools_in_it_goes_on() -> None:
    """Fifty turns, each with a call, through a small window: no error, and the order holds."""

    def look(n: int) -> str:
        return f"result {n} of some words"

    script = [
        reply
        for turn in range(50)
        for reply in (FakeReply(tool_calls=(ToolCall("look", {"n": turn}, str(turn)),)), f"answer {turn}")
    ]
    with chatting(*script, config=SMALL, system="s", tools=[look], overflow="drop_oldest") as (chat, backend):
        for turn in range(50):
            assert chat.send(f"question {turn}").text == f"answer {turn}"
        assert len(chat.history) == 201
        for request in backend.requests:
            asked = [message for message in request.messages if message.role == "user"]
            numbers = [int(message.content.split()[1]) for message in asked]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            assert [message.role for message in request.messages[:3]] == ["system", "user", "assistant"] or len(
                asked
            ) == 1


def test_async_sessions_have_the_same_policies() -> None:
    """The loop is free meanwhile."""

    async def main() -> None:
        async with AsyncModelManager(FakeBackend(["fine"])) as models:
            model = await models.load("fake", config=SMALL)
            chat = AsyncChatSession(model, history=numbered(40), overflow="drop_oldest")
            reply = await chat.send("hi")
            assert reply.dropped == chat.history[: len(reply.dropped)]
            assert len(reply.dropped) > 40

    asyncio.run(asyncio.wait_for(main(), 15))


def test_cancelling_while_it_is_counted_ends_the_turn() -> None:
    """The thread that counts is not waited for."""
    hand = HandModel()
    chat = ChatSession(loaded(hand), history=numbered(2), overflow="drop_oldest")
    stream = chat.stream("hi")
    stream.cancel()
    assert stream.reply.finish_reason == "cancelled"


def words(messages: Sequence[Message]) -> int:
    """Count as a model with a short template would."""
    return 1 + sum(3 + len(message.content.split()) for message in messages)


lengths = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), max_size=30)


@settings(deadline=None)
@given(st.booleans(), lengths, st.integers(1, 60), st.integers(20, 200), st.integers(0, 50), st.integers(0, 10))
def test_what_is_left_fits_and_is_all_that_could_stay(
    system: bool, turns: list[tuple[int, int]], newest: int, n_ctx: int, hidden: int, done: int
) -> None:
    """Whatever the lengths: an error only if the newest turn cannot fit, else whole turns from the end, as many as fit
    under the mark, found with few countings."""
    history = History.of("s " * 3 if system else None, [m for q, a in turns for m in (U("w " * q), A("w " * a))])
    if done and len(history.starts) > 1:
        history = History(history.messages, history.starts, history.answers, Window(history.head, history.starts[1]))
    asked = history.asked("w " * newest)
    counted = 0

    def count(messages: Sequence[Message]) -> int:
        nonlocal counted
        counted += 1
        return words(messages)

    refused = ContextOverflowError("x", prompt_tokens=words(asked.prompt) + hidden, context_tokens=n_ctx)
    reserve = n_ctx // 4
    shortened = Shortening(
        history=asked, made=(), refused=refused, reserve=reserve, n_ctx=n_ctx, policy="drop_oldest", count=count
    ).result()
    alone = words((*asked.head, asked.messages[-1])) + hidden
    assert counted <= 4 + len(turns).bit_length()
    if shortened.error is not None:
        assert alone >= n_ctx or not asked.cuts
        return
    assert shortened.window is not None
    left = shortened.window.of(asked.messages)
    total, mark = words(left), int((n_ctx - 1 - hidden - reserve) * KEEP)
    assert left == asked.head + asked.messages[shortened.window.since :]
    assert total <= mark or len(left) == 1 + system
    earlier = [cut for cut in asked.cuts if cut < shortened.window.since]
    if earlier:
        assert words(asked.head + asked.messages[earlier[-1] :]) > mark
    assert asked.prompt == asked.head + shortened.dropped + left[system:]


@given(st.integers(0, 50), st.integers(0, 60))
def test_bisection_finds_the_first_place(count: int, first: int) -> None:
    """Or tells that there is none."""
    assert first_where(count, lambda place: place >= first) == min(first, count)


def _converse(path: Path, turns: int, n_ctx: int) -> int:
    """Have a conversation that its window does not hold; return how many messages it dropped."""
    with ModelManager() as models:
        model = models.load(path, config=ModelConfig(n_ctx=n_ctx))
        chat = ChatSession(model, system="Be terse.", overflow="drop_oldest", max_tokens=6, temperature=0.0)
        dropped: list[Message] = []
        for turn in range(turns):
            reply = chat.send(f"This is message number {turn}. What is the next number?")
            dropped += reply.dropped
            assert reply.finish_reason in ("stop", "length")
            assert reply.usage.prompt_tokens < n_ctx - 6
            if turn > 5 and not reply.dropped:
                assert reply.usage.cached_tokens > 0.6 * reply.usage.prompt_tokens
        asked = [message.content.split()[4] for message in chat.history if message.role == "user"]
        assert asked == [f"{turn}." for turn in range(turns)]
        assert tuple(dropped) == chat.history[1 : len(dropped) + 1]
        return len(dropped)


def test_twenty_turns_through_a_small_window_of_the_real_model(smollm2_path: Path) -> None:
    """No error, nothing lost from the history, the order right, and between drops little is read anew."""
    assert _converse(smollm2_path, 20, 512) > 6


@pytest.mark.soak
def test_fifty_turns_through_a_window_of_the_real_model(smollm2_path: Path) -> None:
    """The same, longer, in a window of 1,024 tokens."""
    dropped = _converse(smollm2_path, 50, 1024)
    print(f"\n50 turns through a window of 1,024 tokens: {dropped} messages were dropped")
    assert dropped > 20

"""`AsyncChatStream`: chunks, events, the whole reply, and every way in which a stream ends."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from localllm import (
    AsyncChatSession,
    AsyncChatStream,
    AsyncModel,
    BackendError,
    FakeReply,
    GenerationEnded,
    GenerationTimeoutError,
    PromptProgress,
    Reply,
    ReplyEnded,
    StreamChunk,
    StreamConsumedError,
)
from localllm.aio.pump import LoopPump
from localllm.pump import PENDING, Pending
from localllm.testing import ManualClock
from tests.by_hand import HandModel, loaded
from tests.chats import in_thread, texts
from tests.test_aio import chatting

ABC = FakeReply(chunks=["a", "b", "c"])


def test_async_for_yields_counted_chunks_that_join_to_the_reply() -> None:
    """As in the plain stream; the reply is awaited."""

    async def main() -> None:
        async with chatting(ABC) as chat:
            stream = chat.stream("hi")
            chunks = [chunk async for chunk in stream]
            assert chunks == [StreamChunk(text, "text", index) for index, text in enumerate("abc")]
            assert (await stream.reply()).text == "abc"
            assert chat.history[-1] == (await stream.reply()).message
            assert [chunk async for chunk in stream] == []
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    asyncio.run(main())


def test_a_stream_is_an_async_iterator_itself() -> None:
    """`anext(stream)` gives chunks one by one, and `reply()` the rest with them."""

    async def main() -> None:
        async with chatting(ABC) as chat:
            stream = chat.stream("hi")
            assert (await anext(stream)).text == "a"
            assert (await stream.reply()).text == "abc"

    asyncio.run(main())


def test_events_tell_everything_and_exclude_the_chunks() -> None:
    """Progress, chunks, the reply; and a clear error for who wants both."""

    async def main() -> None:
        async with chatting(ABC) as chat:
            stream = chat.stream("hi")
            progress, *chunks, ended = [event async for event in stream.events()]
            assert isinstance(progress, PromptProgress)
            assert [chunk.text for chunk in chunks if isinstance(chunk, StreamChunk)] == ["a", "b", "c"]
            assert ended == ReplyEnded(await stream.reply())
            with pytest.raises(StreamConsumedError):
                await anext(stream)
            with pytest.raises(StreamConsumedError):
                aiter(stream)

    asyncio.run(main())


async def _break_from_for(stream: AsyncChatStream) -> None:
    async for chunk in stream:
        if chunk.text == "b":
            break


async def _leave_with(stream: AsyncChatStream) -> None:
    async with stream as same:
        assert same is stream
        await anext(stream)
        await anext(stream)


async def _cancel(stream: AsyncChatStream) -> None:
    await anext(stream)
    await anext(stream)
    await stream.cancel()
    await stream.cancel()


async def _raise_in_for(stream: AsyncChatStream) -> None:
    with pytest.raises(ZeroDivisionError):
        async for chunk in stream:
            1 / (chunk.text == "a")


async def _break_from_events(stream: AsyncChatStream) -> None:
    async for event in stream.events():
        if isinstance(event, StreamChunk) and event.text == "b":
            break


async def _cancel_in_body(stream: AsyncChatStream) -> None:
    delivered = asyncio.Event()

    async def read() -> None:
        async for chunk in stream:
            if chunk.text == "b":
                delivered.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await delivered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave", [_break_from_for, _leave_with, _cancel, _raise_in_for, _break_from_events, _cancel_in_body]
)
def test_leaving_early_keeps_exactly_what_was_delivered(
    leave: Callable[[AsyncChatStream], Awaitable[None]],
) -> None:
    """However one leaves after the second chunk: the history has two chunks, and the session is free at once."""

    async def main() -> None:
        async with chatting(ABC, "later") as chat:
            stream = chat.stream("hi")
            await leave(stream)
            assert texts(chat.history) == ["s", "hi", "ab"]
            assert chat.history[-1].finish_reason == "cancelled"
            assert (await chat.send("again")).text == "later"
            reply = await stream.reply()
            assert (reply.text, reply.finish_reason) == ("ab", "cancelled")

    asyncio.run(main())


def test_cancelling_a_task_that_waits_for_a_chunk() -> None:
    """CancelledError comes through; what was delivered is kept; the session is free at once."""

    async def main() -> None:
        clock = ManualClock()
        async with chatting(FakeReply(chunks=["a", "b"], delay_s=1), "next", clock=clock) as chat:
            stream = chat.stream("hi")
            delivered = asyncio.Event()

            async def read() -> None:
                async for _ in stream:
                    delivered.set()

            task = asyncio.create_task(read())
            await asyncio.to_thread(clock.wait_until_blocked)
            clock.advance(1)
            await delivered.wait()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert texts(chat.history) == ["s", "hi", "a"]
            assert (await chat.send("again")).text == "next"
            assert (await stream.reply()).usage.completion_tokens == 1

    asyncio.run(main())


def test_cancelling_a_task_that_waits_for_the_reply() -> None:
    """Collecting counts what was received."""

    async def main() -> None:
        clock = ManualClock()
        async with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as chat:
            task = asyncio.create_task(chat.stream("hi").reply())
            await asyncio.to_thread(clock.wait_until_blocked)
            clock.advance(1)
            await asyncio.to_thread(clock.wait_until_blocked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert texts(chat.history) == ["s", "hi", "a"]

    asyncio.run(main())


def test_another_task_may_cancel() -> None:
    """Who waits for a chunk is woken, and its loop ends."""

    async def main() -> None:
        async with chatting(FakeReply("never", delay_s=1e6)) as chat:
            stream = chat.stream("hi")

            async def read() -> list[StreamChunk]:
                return [chunk async for chunk in stream]

            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            await stream.cancel()
            assert await task == []
            assert (await stream.reply()).finish_reason == "cancelled"

    asyncio.run(main())


def test_a_cancel_wakes_who_waits_even_if_the_backend_does_not_obey() -> None:
    """The loop of another task ends at once; only the figures have to wait for the backend."""

    async def main() -> None:
        hand = HandModel(obeys=False)
        stream = AsyncChatSession(AsyncModel(loaded(hand))).stream("hi")

        async def read() -> list[StreamChunk]:
            return [chunk async for chunk in stream]

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await stream.cancel()
        assert await task == []
        hand.end(GenerationEnded("cancelled"))
        assert (await stream.reply()).text == ""

    asyncio.run(main())


def test_dropping_the_last_reference_frees_the_session() -> None:
    """Neither the session, the backend nor the loop keeps a stream alive."""

    async def main() -> None:
        async with chatting(FakeReply("never", delay_s=1e6), "next") as chat:
            stream = chat.stream("hi")
            events = stream.events()
            await anext(events)
            gone = weakref.ref(stream)
            del stream
            assert gone() is not None
            del events
            assert gone() is None
            assert (await chat.send("again")).text == "next"

    asyncio.run(main())


def test_time_outs_and_errors() -> None:
    """Raised by iteration, with the partial reply; `reply()` gives a timed-out one and raises an error again."""

    async def main() -> None:
        clock = ManualClock(auto_advance=True)
        late = FakeReply(chunks=["a", "b"], delay_s=1)
        failing = FakeReply(chunks=["x", "y"], error=ValueError("boom"), error_at=1)
        async with chatting(late, failing, clock=clock) as chat:
            stream = chat.stream("hi", timeout_s=1.5)
            with pytest.raises(GenerationTimeoutError) as timed_out:
                async for _ in stream:
                    pass
            assert timed_out.value.reply == await stream.reply()
            assert texts(chat.history) == ["s", "hi", "a"]
            stream = chat.stream("hi")
            with pytest.raises(BackendError) as failed:
                async for _ in stream.events():
                    pass
            with pytest.raises(BackendError) as again:
                await stream.reply()
            assert again.value is failed.value
            assert texts(chat.history) == ["s", "hi", "a"]

    asyncio.run(main())


def test_a_backend_may_speak_after_the_loop_is_closed() -> None:
    """A wait that outlives its loop: the backend's events find nobody, and raise nothing."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a task is left pending, on purpose
    pump = LoopPump()
    steps: list[bool] = []

    def step() -> Literal[Pending.PENDING]:
        steps.append(True)
        return PENDING

    task: asyncio.Task[object] = loop.create_task(pump.run(step))
    while len(steps) < 2:
        loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert in_thread(pump.wake)() is None
    assert not task.done()


def test_a_stream_may_be_read_in_another_loop() -> None:
    """It belongs to no loop: what a first one began, a second one reads on."""
    hand = HandModel()
    chat = AsyncChatSession(AsyncModel(loaded(hand)))
    stream = chat.stream("hi")
    hand.say("a", "b")
    assert asyncio.run(_next(stream)).text == "a"
    hand.end(GenerationEnded("stop"))
    assert asyncio.run(_next(stream)).text == "b"
    assert asyncio.run(_reply(stream)).text == "ab"


async def _next(stream: AsyncChatStream) -> StreamChunk:
    return await anext(stream)


async def _reply(stream: AsyncChatStream) -> Reply:
    return await stream.reply()

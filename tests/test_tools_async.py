"""Tools in async sessions: coroutine functions on the loop, others on threads, the hook awaited."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    AsyncOnToolCall,
    FakeBackend,
    FakeReply,
    GenerationTimeoutError,
    InvalidOptionError,
    ToolCall,
    ToolEnded,
    ToolRefusal,
    ToolStarted,
    ToolTimeoutError,
    tool,
)
from localllm.draft import CANCELLED
from localllm.tools.tool import Tools
from tests.chats import Script, texts

OSLO = ToolCall("weather", {"city": "Oslo"}, "1")


@asynccontextmanager
async def chatting(
    *script: Script, tools: Tools, on_tool_call: AsyncOnToolCall | None = None
) -> AsyncIterator[tuple[AsyncChatSession, FakeBackend]]:
    """Yield an async session with tools, whose model answers from `script`."""
    backend = FakeBackend(script)
    async with AsyncModelManager(backend) as models:
        yield AsyncChatSession(await models.load("fake"), tools=tools, on_tool_call=on_tool_call), backend


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run `main` with a limit."""

    async def limited() -> None:
        await asyncio.wait_for(main(), 15)

    asyncio.run(limited())


async def weather(city: str) -> str:
    """Tell the weather."""
    await asyncio.sleep(0)
    return f"{city}: rain"


def test_coroutine_functions_run_on_the_loop_and_others_on_threads() -> None:
    """Side by side, each waiting for the other; context variables go along."""
    user = contextvars.ContextVar("user", default="nobody")

    async def main() -> None:
        loop_thread = threading.current_thread()
        met = threading.Event()
        begun = asyncio.Event()
        loop = asyncio.get_running_loop()

        async def awaited() -> str:
            assert threading.current_thread() is loop_thread
            await begun.wait()
            met.set()
            return "awaited"

        def threaded() -> str:
            assert threading.current_thread() is not loop_thread
            loop.call_soon_threadsafe(begun.set)
            assert met.wait(15)
            return user.get()

        user.set("Ada")
        ask = FakeReply(tool_calls=(ToolCall("awaited"), ToolCall("threaded")))
        async with chatting(ask, "Both.", tools=[awaited, threaded]) as (chat, _):
            reply = await chat.send("hi")
            assert reply.text == "Both."
            assert [(item.content, item.error) for item in reply.tool_results] == [("awaited", None), ("Ada", None)]

    run(main)


def test_events_and_history_are_those_of_the_plain_session() -> None:
    """Started, ended, and the whole turn kept."""

    async def main() -> None:
        async with chatting(FakeReply("Hm.", tool_calls=(OSLO,)), "It rains.", tools=[weather]) as (chat, backend):
            stream = chat.stream("hi")
            told = [event async for event in stream.events() if isinstance(event, (ToolStarted, ToolEnded))]
            assert [type(event) for event in told] == [ToolStarted, ToolEnded]
            assert texts(chat.history) == ["hi", "Hm.", "Oslo: rain", "It rains."]
            assert backend.requests[1].messages == chat.history[:3]
            assert (await stream.reply()).tool_results[0].call == OSLO

    run(main)


def test_failures_of_tools_are_results() -> None:
    """Of coroutines and of threads, a TimeoutError of the tool's own and a StopIteration included."""

    async def late() -> None:
        raise TimeoutError("of its own")

    def stops() -> None:
        raise StopIteration("surprise")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        calls = (ToolCall("late"), ToolCall("stops"), ToolCall("cancelled"), ToolCall("nothing"))
        async with chatting(FakeReply(tool_calls=calls), "Oh.", tools=[late, stops, cancelled]) as (chat, _):
            results = (await chat.send("hi")).tool_results
            assert results[0].content == "error: TimeoutError: of its own"
            assert "StopIteration" in results[1].content
            assert results[2].content.startswith("error: CancelledError")
            assert "no tool 'nothing'" in results[3].content

    run(main)


def test_what_takes_too_long_is_cancelled_or_abandoned() -> None:
    """A coroutine is cancelled; a thread goes on, and nobody waits for it, not even at the program's end."""
    ended: list[str] = []
    release = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    def stuck() -> None:
        release.wait(15)

    async def main() -> None:
        ask = FakeReply(tool_calls=(ToolCall("forever"), ToolCall("stuck")))
        async with chatting(ask, "Late.", tools=[forever, stuck]) as (chat, _):
            reply = await chat.send("hi", tool_timeout_s=0.01)
            assert [type(item.error) for item in reply.tool_results] == [ToolTimeoutError, ToolTimeoutError]
            assert ended == ["cancelled"]

    run(main)
    release.set()


def test_the_time_limit_of_a_turn_counts_its_tools() -> None:
    """The turn ends as a time-out, with what was said kept."""

    async def forever() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with chatting(FakeReply("Hm.", tool_calls=(ToolCall("forever"),)), tools=[forever]) as (chat, _):
            with pytest.raises(GenerationTimeoutError):
                await chat.send("hi", timeout_s=0.2)
            assert chat.history[-1].finish_reason == "timeout"

    run(main)


@pytest.mark.parametrize("awaits", [True, False])
def test_a_hook_may_be_a_coroutine_function(awaits: bool) -> None:
    """It is asked call by call, in order; a plain one is called on the loop."""
    asked: list[str] = []

    def decide(call: ToolCall) -> ToolCall | ToolRefusal | None:
        asked.append(call.id)
        return {"1": None, "2": ToolCall("weather", {"city": "Milan"}), "3": ToolRefusal("no")}[call.id]

    async def decide_later(call: ToolCall) -> ToolCall | ToolRefusal | None:
        await asyncio.sleep(0)
        return decide(call)

    async def main() -> None:
        calls = tuple(ToolCall("weather", {"city": "Oslo"}, id) for id in ("1", "2", "3"))
        hook: AsyncOnToolCall = decide_later if awaits else decide
        async with chatting(FakeReply(tool_calls=calls), "Done.", tools=[weather], on_tool_call=hook) as (chat, _):
            results = (await chat.send("hi")).tool_results
            told = ["Oslo: rain", "Milan: rain", "error: the call was refused: no"]
            assert [item.content for item in results] == told
            assert asked == ["1", "2", "3"]

    run(main)


def test_what_a_hook_raises_is_raised_where_the_reply_is_awaited() -> None:
    """The calls that run already are cancelled, and the turn counts as cancelled."""
    cancelled: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("forever")
            raise

    async def hook(call: ToolCall) -> None:
        await asyncio.sleep(0)
        if call.id == "2":
            raise ZeroDivisionError("in the hook")

    async def main() -> None:
        ask = FakeReply("Hm.", tool_calls=(ToolCall("forever", {}, "1"), ToolCall("forever", {}, "2")))
        async with chatting(ask, "next", tools=[forever], on_tool_call=hook) as (chat, _):
            with pytest.raises(ZeroDivisionError, match="in the hook"):
                await chat.send("hi")
            assert texts(chat.history) == ["hi", "Hm.", CANCELLED, CANCELLED, ""]
            assert cancelled == ["forever"]
            assert (await chat.send("again")).text == "next"

    run(main)


def test_cancelling_the_task_cancels_the_tool() -> None:
    """The coroutine is told, the history keeps what was said, the session is free."""

    async def main() -> None:
        begun, told = asyncio.Event(), asyncio.Event()

        async def forever() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                told.set()

        async with chatting(FakeReply("Hm.", tool_calls=(ToolCall("forever"),)), "next", tools=[forever]) as (chat, _):
            task = asyncio.create_task(chat.send("hi"))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await told.wait()
            assert texts(chat.history) == ["hi", "Hm.", CANCELLED, ""]
            assert (await chat.send("again")).text == "next"

    run(main)


def test_leaving_a_stream_in_a_tool_cancels_it() -> None:
    """By leaving the `async with`; the reply has the figures of the request before."""

    async def main() -> None:
        told = asyncio.Event()

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                told.set()

        async with chatting(FakeReply("Hm.", tool_calls=(ToolCall("forever"),)), tools=[forever]) as (chat, _):
            async with chat.stream("hi") as stream:
                async for event in stream.events():
                    if isinstance(event, ToolStarted):
                        break
            await told.wait()
            reply = await stream.reply()
            assert (reply.finish_reason, reply.usage.completion_tokens > 0) == ("cancelled", True)

    run(main)


def test_hooks_that_cannot_be_called_are_refused() -> None:
    """By the constructor."""

    async def main() -> None:
        with pytest.raises(InvalidOptionError, match="on_tool_call must be a function or None"):
            async with chatting(tools=[tool(weather)], on_tool_call=7):  # type: ignore[arg-type]
                pass

    run(main)

"""The async twins of session, model and manager: same names, awaited, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

import localllm
from localllm import (
    AsyncChatSession,
    AsyncModel,
    AsyncModelManager,
    BackendError,
    ChatSession,
    ClosedError,
    FakeBackend,
    FakeReply,
    GenerationTimeoutError,
    InvalidOptionError,
    InvalidPromptError,
    Message,
    ModelConfig,
    PromptTypeError,
    Reply,
    SessionBusyError,
    UnknownOptionError,
)
from localllm.testing import ManualClock
from tests.by_hand import HandBackend, HandModel, loaded
from tests.chats import Script, texts


@asynccontextmanager
async def chatting(*script: Script, clock: ManualClock | None = None) -> AsyncIterator[AsyncChatSession]:
    """Yield a session with a model that answers from `script`."""
    async with AsyncModelManager(FakeBackend(script, clock=clock)) as models:
        yield AsyncChatSession(await models.load("fake"), system="s")


def test_a_conversation_in_async() -> None:
    """Every method of a session does what its twin does."""

    async def main() -> None:
        async with chatting("one", "two", "three", "four") as chat:
            assert (await chat.send("a")).text == "one"
            assert (await chat.regenerate(seed=1)).text == "two"
            assert [chunk.text async for chunk in chat.stream_regenerate()] == ["three"]
            await chat.preload("b")
            fork = await chat.fork()
            assert isinstance(fork, AsyncChatSession)
            assert fork.model is chat.model
            assert (await fork.send("b")).text == "four"
            assert texts(fork.history) == ["s", "a", "three", "b", "four"]
            assert texts(await chat.undo()) == ["a", "three"]
            await fork.reset()
            assert fork.history == chat.history == (Message.system("s"),)

    asyncio.run(main())


def test_a_model_in_async() -> None:
    """`tokenize`, `detokenize`, `render`, `stats` and `close` are awaited; `info` is a property."""

    async def main() -> None:
        async with AsyncModelManager(FakeBackend(["one"])) as models:
            async with await models.load("fake") as model:
                assert await model.detokenize(await model.tokenize("hello there")) == "hello there"
                rendered = await model.render([Message.user("hi")])
                assert "hi" in rendered.text
                assert (await model.stats()).finished == 0
                assert model.info == model.sync.info
                assert repr(model) == "<AsyncModel 'fake'>"
            for call in (model.tokenize("x"), model.detokenize([1]), model.render([Message.user("x")])):
                with pytest.raises(ClosedError, match="load it again"):
                    await call
            assert (await model.stats()).finished == 0
            await model.close()

    asyncio.run(main())


def test_a_model_is_shared_with_code_that_does_not_await() -> None:
    """`AsyncModel.sync` is the same model for a plain session on a thread."""

    async def main() -> None:
        async with chatting("one") as chat:
            reply = await asyncio.to_thread(ChatSession(chat.model.sync).send, "hi")
            assert reply.text == "one"

    asyncio.run(main())


def test_errors_are_the_same() -> None:
    """Prompts, options, busy sessions, failures and time-outs."""

    async def main() -> None:
        clock = ManualClock(auto_advance=True)
        failing = FakeReply(chunks=["x"], error=ValueError("boom"))
        late = FakeReply(chunks=["a", "b"], delay_s=1)
        async with chatting(failing, late, "fine", clock=clock) as chat:
            with pytest.raises(InvalidPromptError):
                await chat.send("")
            with pytest.raises(PromptTypeError):
                chat.stream(cast("str", 7))
            with pytest.raises(UnknownOptionError, match="did you mean 'top_k'"):
                await chat.send("x", top_kk=3)  # type: ignore[call-overload]
            with pytest.raises(BackendError, match="boom") as failed:
                await chat.send("x")
            assert failed.value.reply is not None
            assert failed.value.reply.text == "x"
            with pytest.raises(GenerationTimeoutError) as timed_out:
                await chat.send("x", timeout_s=1.5)
            assert timed_out.value.reply is not None
            assert timed_out.value.reply.message == chat.history[-1]
            stream = chat.stream("x")
            with pytest.raises(SessionBusyError):
                await chat.undo()
            assert (await stream.reply()).text == "fine"
            await chat.model.close()
            with pytest.raises(ClosedError):
                await chat.send("x")

    asyncio.run(main())


def test_an_async_session_wants_an_async_model() -> None:
    """A plain one is refused with what to use."""

    async def main() -> None:
        async with chatting("one") as chat:
            with pytest.raises(
                InvalidOptionError, match=r"model must be an AsyncModel, .* for a Model use ChatSession"
            ):
                AsyncChatSession(cast("AsyncModel", chat.model.sync))

    asyncio.run(main())


def test_cancelling_a_task_that_sends_keeps_what_was_received() -> None:
    """CancelledError comes through, the history has all text received so far, and the session is free at once."""

    async def main() -> None:
        clock = ManualClock()
        async with chatting(FakeReply(chunks=["a", "b"], delay_s=1), "next", clock=clock) as chat:
            task = asyncio.create_task(chat.send("hi"))
            await asyncio.to_thread(clock.wait_until_blocked)
            clock.advance(1)
            await asyncio.to_thread(clock.wait_until_blocked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert texts(chat.history) == ["s", "hi", "a"]
            assert chat.history[-1].finish_reason == "cancelled"
            assert (await chat.send("again")).text == "next"

    asyncio.run(main())


@pytest.mark.parametrize("collect", [AsyncChatSession.send, lambda chat, prompt: chat.stream(prompt).reply()])
def test_text_that_comes_together_with_the_cancel_was_received(
    collect: Callable[[AsyncChatSession, str], Coroutine[None, None, Reply]],
) -> None:
    """Collecting counts what the backend had made, also what the task had no chance to look at."""

    async def main() -> None:
        hand = HandModel()
        chat = AsyncChatSession(AsyncModel(loaded(hand)))
        task = asyncio.create_task(collect(chat, "hi"))
        while not hand.requests:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        hand.say("a", "b")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert texts(chat.history) == ["hi", "ab"]

    asyncio.run(main())


def test_a_timeout_of_asyncio_cancels() -> None:
    """`asyncio.timeout` around a send: TimeoutError, and the session is free."""

    async def main() -> None:
        async with chatting(FakeReply("never", delay_s=1e6), "next") as chat:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await chat.send("hi")
            assert (await chat.send("again")).text == "next"
            assert texts(chat.history) == ["s", "again", "next"]

    asyncio.run(main())


def test_many_sessions_talk_in_one_loop() -> None:
    """Each task gets its own replies."""

    async def main() -> None:
        def answers() -> Iterator[str]:
            while True:
                yield f"re: {backend.requests[-1].messages[-1].content}"

        backend = FakeBackend(answers())
        async with AsyncModelManager(backend) as models:
            model = await models.load("fake", config=ModelConfig(n_parallel=4))

            async def talk(number: int) -> None:
                chat = AsyncChatSession(model)
                for turn in range(10):
                    assert (await chat.send(f"{number}.{turn}")).text == f"re: {number}.{turn}"

            await asyncio.gather(*(talk(number) for number in range(20)))

    asyncio.run(main())


def test_closing_the_manager_ends_a_send_as_cancelled() -> None:
    """Who awaits gets what there was, as a reply."""

    async def main() -> None:
        clock = ManualClock()
        async with AsyncModelManager(FakeBackend([FakeReply("never", delay_s=1)], clock=clock)) as models:
            chat = AsyncChatSession(await models.load("fake"))
            task = asyncio.create_task(chat.send("hi"))
            await asyncio.to_thread(clock.wait_until_blocked)
            await models.close()
            assert (await task).finish_reason == "cancelled"
            with pytest.raises(ClosedError):
                await models.load("fake")

    asyncio.run(main())


def test_the_loop_goes_on_while_a_backend_is_slow() -> None:
    """Tokenizing, rendering and closing run elsewhere: the loop is never blocked while they take their time."""

    class Slow(HandModel):
        def tokenize(self, text: str) -> tuple[int, ...]:
            return self._slow() or super().tokenize(text)

        def close(self) -> None:
            self._slow()
            super().close()

        def _slow(self) -> tuple[int, ...]:
            assert released.wait(15)
            return ()

    released = threading.Event()

    async def main() -> None:
        models = AsyncModelManager(HandBackend(Slow()))
        model = await models.load("x")
        tasks = [asyncio.create_task(model.tokenize("abc"))]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not tasks[0].done()
        closing = asyncio.create_task(models.close())
        await asyncio.sleep(0)
        released.set()
        await closing
        assert await tasks[0] == (97, 98, 99)

    asyncio.run(main())


def test_a_backend_that_is_always_ready_starves_nobody() -> None:
    """However fast chunks come, other tasks get their turns in between."""

    async def main() -> None:
        async with chatting(FakeReply(chunks=["x"] * 200), "ok") as chat:
            stream = chat.stream("hi")
            await (await chat.fork()).send("answered only when the stream's request has ended")
            turns = 0

            async def tick() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            ticking = asyncio.create_task(tick())
            assert len([chunk async for chunk in stream]) == 200
            ticking.cancel()
            assert turns >= 200

    asyncio.run(main())


_AWAITED_NOT = {
    "subscribe",
    "watch",
    "generate_many",
    "stream",
    "stream_regenerate",
    "stream_continue",
    "events",
    "partials",
    "history",
    "model",
    "info",
}
_BELOW_SESSIONS = {"submit", "save_state", "load_state"}  # of a model, for what is built on it


@pytest.mark.parametrize("name", ["ModelManager", "Model", "ChatSession", "ChatStream"])
def test_the_twins_have_the_same_names_and_options(name: str) -> None:
    """All that a plain class has is in its twin, with the same parameters, awaited unless it returns at once."""
    plain, twin = getattr(localllm, name), getattr(localllm, f"Async{name}")
    assert _parameters(plain.__init__) == _parameters(twin.__init__) or name in ("Model", "ChatStream")
    for attribute in dir(plain):
        if attribute.startswith("_") or attribute in _BELOW_SESSIONS:
            continue
        ours = _plain(inspect.getattr_static(plain, attribute))
        theirs = _plain(inspect.getattr_static(twin, attribute))
        if attribute == "reply":
            assert inspect.iscoroutinefunction(theirs)
        elif isinstance(ours, property):
            assert isinstance(theirs, property)
        else:
            assert callable(ours)
            assert callable(theirs)
            assert _parameters(ours) == _parameters(theirs)
            assert inspect.iscoroutinefunction(theirs) == (attribute not in _AWAITED_NOT)


def _plain(found: object) -> object:
    """Return the function of a class method."""
    return found.__func__ if isinstance(found, classmethod) else found


def _parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    found = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, str(each.annotation).replace("Async", "")) for each in found]

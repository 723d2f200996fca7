"""What a user interface sees of a manager: snapshots, events in order, and nobody held up."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable

import pytest

from localllm import (
    AsyncModelManager,
    Closed,
    ClosedError,
    Failed,
    GenerateRequest,
    Idle,
    InvalidOptionError,
    LoadedModel,
    Loading,
    LoadProgress,
    ManagerEvent,
    ManagerSnapshot,
    Message,
    ModelLoadError,
    ModelManager,
    ModelSpec,
    ModelState,
    ProgressCallback,
    Ready,
    Unloaded,
    Unloading,
)
from localllm.testing import ManualClock
from tests.chats import in_thread
from tests.residency.gates import LIMIT_S, Gate, Loads, Log, no_thread_left, until

REQUEST = GenerateRequest(messages=(Message.user("hi"),))


class Seen:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[ManagerEvent] = []
        self._more = threading.Condition()

    def __call__(self, event: ManagerEvent) -> None:
        with self._more:
            self.events.append(event)
            self._more.notify_all()

    def wait_for(self, kind: type[ManagerEvent], count: int = 1) -> list[ManagerEvent]:
        """Wait until so many of a kind have come, and return all."""
        with self._more:
            assert self._more.wait_for(lambda: sum(isinstance(e, kind) for e in self.events) >= count, LIMIT_S)
            return list(self.events)


def kinds(events: list[ManagerEvent]) -> list[str]:
    """Return the events' names, progress left out."""
    return [type(event).__name__ for event in events if not isinstance(event, Loading)]


def test_a_life_is_told_from_the_load_to_the_close() -> None:
    """A snapshot first, then each step once, in its order, of this model."""
    seen = Seen()
    with no_thread_left(), ModelManager(Loads()) as models:
        models.subscribe(seen)
        model = models.load("a")
        handle = model.submit(REQUEST, log := Log())
        handle.cancel()
        log.end()
        models.unload(model)
        model.tokenize("x")
        model.close()
        events = seen.wait_for(Closed)
    assert events[0] == ManagerSnapshot()
    assert kinds(events[1:]) == [
        "Ready", "Busy", "Idle", "Unloading", "Unloaded", "Ready", "Unloading", "Closed"
    ]  # fmt: skip
    assert {(event.id, event.ref) for event in events[1:] if not isinstance(event, ManagerSnapshot)} == {(1, "a")}
    assert [event.reason for event in events if isinstance(event, Unloading)] == ["asked", "closed"]
    first = next(event for event in events if isinstance(event, Loading))
    assert first.progress.phase in ("starting", "loading")
    ready = next(event for event in events if isinstance(event, Ready))
    assert ready.info.name == "by hand"


def test_a_late_subscriber_begins_with_what_there_is() -> None:
    """The snapshot says all that the others were told; then both are told the same."""
    early, late = Seen(), Seen()
    with ModelManager(Loads()) as models:
        models.subscribe(early)
        model = models.load("a", pin=True)
        model.submit(REQUEST, Log())
        models.subscribe(late)
        model.close()
        early.wait_for(Closed)
        events = late.wait_for(Closed)
        assert events[0] == ManagerSnapshot(
            models=(ModelState(id=1, ref="a", state="busy", requests=1, pinned=True, info=model.info),)
        )
        assert events[1:] == early.events[-len(events) + 1 :]


def test_a_failed_load_is_told() -> None:
    """With its error; then nobody has the model any more."""
    seen = Seen()
    with ModelManager(Loads(None, KeyError("surprise"))) as models:
        models.subscribe(seen)
        with pytest.raises(ModelLoadError):
            models.load("a")
        events = seen.wait_for(Closed)
        assert kinds(events[1:]) == ["Failed", "Closed"]
        (failed,) = [event for event in events if isinstance(event, Failed)]
        assert isinstance(failed.error, ModelLoadError)
        assert models.snapshot() == ManagerSnapshot()


def test_why_a_model_is_unloaded_is_told() -> None:
    """Here: nobody has used it for a while."""
    clock, seen = ManualClock(), Seen()
    with ModelManager(Loads(), keep_alive_s=5, clock=clock) as models:
        models.subscribe(seen)
        model = models.load("a")
        clock.wait_until_blocked()
        clock.advance(5)
        events = seen.wait_for(Unloaded)
        assert [event.reason for event in events if isinstance(event, Unloading)] == ["idle"]
        assert model.info.name == "by hand"


def test_a_slow_listener_holds_up_nobody_and_misses_no_state() -> None:
    """While it is stuck, models load and answer and other listeners are told; of progress it gets the latest."""
    stuck = Gate()
    told, seen = list[ManagerEvent](), Seen()

    def slow(event: ManagerEvent) -> None:
        if isinstance(event, ManagerSnapshot):
            stuck.pass_through()
        told.append(event)

    class Chatty(Loads):
        def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
            assert on_progress is not None
            for step in range(500):
                on_progress(LoadProgress("loading", step / 500))
            return super().load(spec, on_progress)

    with ModelManager(Chatty()) as models:
        models.subscribe(slow)
        models.subscribe(seen)
        stuck.wait()
        model = models.load("a")
        for _ in range(3):
            handle = model.submit(REQUEST, Log())
            handle.cancel()
        seen.wait_for(Idle, 3)
        assert told == []
        stuck.open()
        until(lambda: len(told) >= 9, "it catches up")
    progress = [event.progress for event in told if isinstance(event, Loading)]
    assert progress == [LoadProgress("loading", 1.0)]
    assert kinds(told[:9]) == ["ManagerSnapshot", "Ready", "Busy", "Idle", "Busy", "Idle", "Busy", "Idle"]


def test_a_listener_that_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """It is told the next event all the same."""
    seen = Seen()

    def fail(event: ManagerEvent) -> None:
        seen(event)
        raise ZeroDivisionError("mine")

    with caplog.at_level(logging.ERROR, "localllm.manager"), ModelManager(Loads()) as models:
        models.subscribe(fail)
        models.load("a").close()
        assert kinds(seen.wait_for(Closed))[-1] == "Closed"
    assert "a listener of a ModelManager failed" in caplog.text
    assert "ZeroDivisionError: mine" in caplog.text


@pytest.mark.parametrize("end", ["close", "call", "with"])
def test_a_subscription_ends(end: str) -> None:
    """By `close`, by calling it, by leaving a `with`: no more is told, and its thread goes."""
    seen = Seen()
    with no_thread_left(), ModelManager(Loads()) as models:
        with no_thread_left():
            subscription = models.subscribe(seen)
            seen.wait_for(ManagerSnapshot)
            assert not subscription.closed
            if end == "call":
                subscription()
            elif end == "with":
                with subscription:
                    pass
            else:
                subscription.close()
                subscription.close()
            assert subscription.closed
        models.load("a")
    assert kinds(seen.events) == ["ManagerSnapshot"]


def test_a_listener_may_ask_the_manager_anything() -> None:
    """It runs on a thread of its own, with no lock held: it may load, unload, look and close."""
    done: list[str] = []

    def act(event: ManagerEvent) -> None:
        if isinstance(event, Ready) and event.ref == "a":
            with models.load("b") as other:
                assert other.tokenize("x")
            models.unload("a")
            done.append(models.snapshot().models[0].state)
            subscription.close()

    with no_thread_left(), ModelManager(Loads()) as models:
        subscription = models.subscribe(act)
        model = models.load("a")
        until(lambda: done, "it has acted")
        assert done == ["unloaded"]
        assert model.tokenize("x")


def test_closing_the_manager_ends_what_watches_it() -> None:
    """After the last event; a closed one cannot be watched."""
    seen = Seen()
    with no_thread_left():
        models = ModelManager(Loads())
        subscription = models.subscribe(seen)
        model = models.load("a")
        watch = models.watch()
        models.close()
        assert kinds(seen.wait_for(Closed))[-1] == "Closed"
        until(lambda: subscription.closed, "the subscription has ended")
        assert kinds(list(watch)) == ["ManagerSnapshot", "Unloading", "Closed"]
        for begin in (models.watch, lambda: models.subscribe(seen)):
            with pytest.raises(ClosedError):
                begin()
    assert repr(model) == "<Model 'by hand' (closed)>"


def test_a_manager_that_is_forgotten_leaves_no_thread() -> None:
    """Its listener is told nothing more, so the listener's thread has nothing to wait for."""
    with no_thread_left():
        models = ModelManager(Loads())
        models.subscribe(Seen())
        del models
        gc.collect()


def test_events_come_by_iteration_too() -> None:
    """A `for` on any thread, which another one can end."""
    with ModelManager(Loads()) as models:
        told: list[ManagerEvent] = []

        def read() -> None:
            for event in watch:
                told.append(event)  # noqa: PERF402  # seen as it comes

        with models.watch() as watch:
            wait = in_thread(read)
            model = models.load("a")
            until(lambda: any(isinstance(event, Ready) for event in told), "it is told")
        assert wait() is None
        models.unload(model)
    assert kinds(told)[:2] == ["ManagerSnapshot", "Ready"]


def test_a_listener_must_be_a_function() -> None:
    """Anything else is refused at once."""
    with ModelManager(Loads()) as models, pytest.raises(InvalidOptionError, match="listener must be a function"):
        models.subscribe(7)  # type: ignore[arg-type]


def test_events_come_in_the_event_loop() -> None:
    """By `async for`, until the manager is closed."""

    async def main() -> list[ManagerEvent]:
        async with AsyncModelManager(Loads()) as models:
            events: list[ManagerEvent] = []

            watch = models.watch()

            async def read() -> None:
                async for event in watch:
                    events.append(event)  # noqa: PERF401  # seen as it comes

            watching = asyncio.create_task(read())
            model = await models.load("a", pin=True)
            assert (await models.snapshot()).models[0].pinned
            await model.unpin()
            assert not model.pinned
            await model.pin()
            await models.unload(model)
            assert await model.tokenize("x")
            await models.unload("a", force=True)
        await watching
        return events

    events = asyncio.run(main())
    assert kinds(events) == [
        "ManagerSnapshot", "Ready", "Unloading", "Unloaded", "Ready", "Unloading", "Unloaded", "Closed"
    ]  # fmt: skip


def test_an_async_watch_can_be_left() -> None:
    """By leaving its `async with`, by `aclose`, or by dropping it: it gives no more."""

    async def main() -> None:
        async with AsyncModelManager(Loads()) as models:
            async with models.watch() as watch:
                assert isinstance(await anext(watch), ManagerSnapshot)
            with pytest.raises(StopAsyncIteration):
                await anext(watch)
            await watch.aclose()
            dropped = models.watch()
            feed = dropped._source.feed
            del dropped
            gc.collect()
            assert feed.ended

    asyncio.run(main())


@pytest.mark.parametrize("coroutine", [False, True])
def test_an_async_listener_is_told_in_the_event_loop(coroutine: bool) -> None:
    """A function or a coroutine function, one event at a time; what it raises is logged."""

    async def main() -> None:
        seen: list[ManagerEvent] = []
        ready = asyncio.Event()

        def plain(event: ManagerEvent) -> None:
            assert asyncio.get_running_loop() is loop
            seen.append(event)
            if isinstance(event, Ready):
                ready.set()
                raise ZeroDivisionError

        async def slow(event: ManagerEvent) -> None:
            await asyncio.sleep(0)
            plain(event)

        loop = asyncio.get_running_loop()
        async with AsyncModelManager(Loads()) as models:
            listener: Callable[[ManagerEvent], object] = slow if coroutine else plain
            subscription = models.subscribe(listener)
            model = await models.load("a")
            await ready.wait()
            subscription()
            assert subscription.closed
            count = len(seen)
            await models.unload(model)
            assert len(seen) == count
            with pytest.raises(InvalidOptionError):
                models.subscribe(7)  # type: ignore[arg-type]

    asyncio.run(main())

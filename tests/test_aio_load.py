"""Loading in async: progress, cancelling, and no model left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from localllm import (
    AsyncModelManager,
    FakeBackend,
    LoadCancelledError,
    LoadProgress,
    ProgressCallback,
)
from tests.by_hand import HandBackend


def _blocking(began: threading.Event, go_on: threading.Event) -> Callable[[ProgressCallback], None]:
    """A load that tells its progress, blocks until told to go on, and tells it again."""

    def before(on_progress: ProgressCallback) -> None:
        on_progress(LoadProgress("loading", 0.0))
        began.set()
        assert go_on.wait(15)
        if on_progress(LoadProgress("loading", 1.0)) is False:
            raise LoadCancelledError("cancelled")

    return before


def test_a_load_does_not_block_the_loop_and_tells_its_progress_there() -> None:
    """Other tasks run meanwhile; the progress function is called in the event loop's thread."""

    async def main() -> None:
        began, go_on = threading.Event(), threading.Event()
        told: list[tuple[float, int]] = []
        async with AsyncModelManager(HandBackend(before=_blocking(began, go_on))) as models:
            task = asyncio.create_task(
                models.load("x", on_progress=lambda progress: told.append((progress.fraction, threading.get_ident())))
            )
            assert await asyncio.to_thread(began.wait, 15)
            assert not task.done()
            go_on.set()
            assert (await task).info.name == "by hand"
            assert told == [(0.0, threading.get_ident()), (1.0, threading.get_ident())]

    asyncio.run(main())


def test_cancelling_a_task_cancels_its_load() -> None:
    """At once for the task; the thread is told with its next progress, and no model is left open."""

    async def main() -> None:
        began, go_on = threading.Event(), threading.Event()
        backend = HandBackend(before=_blocking(began, go_on))
        async with AsyncModelManager(backend) as models:
            task = asyncio.create_task(models.load("x"))
            assert await asyncio.to_thread(began.wait, 15)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
        assert backend.model.closed == 0

    asyncio.run(main())
    # A backend that tells no progress loads to the end: what nobody wants any more is closed.
    began, go_on = threading.Event(), threading.Event()

    def silent(on_progress: ProgressCallback) -> None:
        began.set()
        assert go_on.wait(15)

    backend = HandBackend(before=silent)

    async def main_without_progress() -> None:
        task = asyncio.create_task(AsyncModelManager(backend).load("x"))
        assert await asyncio.to_thread(began.wait, 15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main_without_progress())
    assert backend.model.closed == 1


def test_a_load_that_was_done_when_its_task_was_cancelled_is_closed() -> None:
    """The model was handed over, and nobody came to take it."""
    backend = HandBackend()

    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        task = asyncio.create_task(AsyncModelManager(backend).load("x"))
        await asyncio.sleep(0)
        executor.submit(lambda: None).result(15)  # the load has ended, and the loop had no chance to receive it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert backend.model.closed == 1


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_progress_function_that_returns_false_cancels_the_load(fraction: float) -> None:
    """Also with the very last progress."""

    async def main() -> None:
        async with AsyncModelManager(FakeBackend(["x"])) as models:
            with pytest.raises(LoadCancelledError):
                await models.load("x", on_progress=lambda progress: progress.fraction != fraction)
            assert (await models.load("x")).info.name == "x"

    asyncio.run(main())


def test_what_a_progress_function_raises_is_raised_by_the_load() -> None:
    """The load is cancelled by it."""

    async def main() -> None:
        def fail(progress: LoadProgress) -> None:
            raise ZeroDivisionError

        backend = HandBackend(before=lambda on_progress: on_progress(LoadProgress("loading", 0.0)))
        async with AsyncModelManager(backend) as models:
            with pytest.raises(ZeroDivisionError):
                await models.load("x", on_progress=fail)
        assert backend.model.closed > 0

    asyncio.run(main())


def test_what_a_progress_function_raises_ends_a_load_that_goes_on() -> None:
    """A backend that asks again is told to stop, and its LoadCancelledError makes way for the caller's exception."""

    async def main() -> None:
        began, go_on = threading.Event(), threading.Event()

        def fail(progress: LoadProgress) -> None:
            asyncio.get_running_loop().call_soon(go_on.set)
            raise ZeroDivisionError

        models = AsyncModelManager(HandBackend(before=_blocking(began, go_on)))
        with pytest.raises(ZeroDivisionError):
            await models.load("x", on_progress=fail)

    asyncio.run(main())


def test_a_load_that_outlives_its_loop_is_cancelled() -> None:
    """There is nobody left to tell its progress to, nor to take the model."""
    began, go_on, obeyed = threading.Event(), threading.Event(), threading.Event()

    def before(on_progress: ProgressCallback) -> None:
        began.set()
        assert go_on.wait(15)
        if on_progress(LoadProgress("loading", 1.0)) is False:
            obeyed.set()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # a task is left pending, on purpose
    models = AsyncModelManager(HandBackend(before=before))
    task = loop.create_task(models.load("x", on_progress=lambda progress: None))
    loop.run_until_complete(asyncio.sleep(0))
    assert began.wait(15)
    loop.close()
    go_on.set()
    assert obeyed.wait(15)
    assert not task.done()

"""Models in workers, and the real model: in memory and out of it, beside streams, across crashes and forks."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from localllm import (
    AsyncModelManager,
    ChatSession,
    ManagerEvent,
    Model,
    ModelConfig,
    ModelManager,
    Ready,
    WorkerCrashedError,
    WorkerRestarted,
)
from localllm.testing import ManualClock
from tests.chats import in_thread
from tests.residency.gates import until
from tests.worker.harness import ask, assert_answers, is_gone, kill, managed, nothing_left, worker_pid

CONFIG = ModelConfig(n_ctx=512)


def test_unloading_ends_the_worker_and_the_next_use_starts_another() -> None:
    """Every byte is back at once; the session's history is all that the new one needs."""
    with managed() as models:
        model = models.load("ok")
        assert_answers(model)
        pid = worker_pid(models)
        models.unload(model)
        assert is_gone(pid)
        assert models.workers() == ()
        assert_answers(model)
        assert worker_pid(models) != pid
        assert model.stats().finished == 2


def test_an_idle_worker_is_ended() -> None:
    """After `keep_alive_s`, by the manager's clock."""
    clock = ManualClock()
    with managed(keep_alive_s=60, clock=clock) as models:
        model = models.load("ok")
        pid = worker_pid(models)
        clock.wait_until_blocked()
        clock.advance(60)
        until(lambda: is_gone(pid), "the worker is gone")
        assert_answers(model)


def test_a_restart_is_told() -> None:
    """The crash belongs to the request; that the model is there again, to everybody."""
    told: list[ManagerEvent] = []
    with managed() as models:
        models.subscribe(told.append)
        model = models.load("ok")
        kill(models, "SIGKILL")
        until(lambda: models.workers()[0].state == "down", "the crash was noticed")
        assert_answers(model)
        until(lambda: any(isinstance(event, WorkerRestarted) for event in told), "it is told")
    (restarted,) = [event for event in told if isinstance(event, WorkerRestarted)]
    assert restarted.ref == "ok"


def test_a_crash_of_a_model_that_came_back_is_one_like_any_other() -> None:
    """The request that it happened to has the error, and the next one is answered."""
    with managed() as models:
        model = models.load("ok")
        models.unload(model)
        with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
            ask(model, "kill SIGSEGV")
        assert_answers(model)


def test_two_loads_of_one_model_share_a_worker() -> None:
    """One process, and it goes with the last handle."""
    with managed() as models:
        first, second = models.load("ok"), models.load("ok")
        pid = worker_pid(models)
        first.close()
        assert_answers(second)
        second.close()
        assert is_gone(pid)


def test_a_load_in_a_worker_holds_up_no_stream() -> None:
    """While a model takes its second to load, another one's reply goes on coming."""
    with managed() as models:
        chat = ChatSession(models.load("ok"))
        loaded: list[Model] = []
        with chat.stream("slow 100000") as stream:
            next(stream)
            wait = in_thread(lambda: loaded.append(models.load("load:busy 1")))
            until(lambda: len(models.snapshot().models) == 2, "the load has begun")
            meanwhile = sum(1 for _ in itertools.takewhile(lambda _: not loaded, stream))
        assert wait() is None
        assert meanwhile > 3


def test_a_load_holds_up_no_stream(smollm2_path: Path) -> None:
    """In this process: while another context is loaded, chunks of a reply go on coming."""
    with ModelManager(isolation="thread") as models:
        model = models.load(smollm2_path, config=CONFIG)
        chat = ChatSession(model, temperature=0.0)
        with chat.stream("Write a long story.", max_tokens=200) as stream:
            next(stream)
            during: list[int] = []
            wait = in_thread(
                lambda: during.append(len(models.load(smollm2_path, config=ModelConfig(n_ctx=256)).info.name))
            )
            count = 0
            for _ in stream:
                count += 1
                if during:
                    break
        assert wait() is None
        assert count > 0


def test_the_real_model_comes_back_and_goes_on(smollm2_path: Path) -> None:
    """A session that has seen its model leave says the same as one that has not."""
    prompts = ("Name a color.", "Another one?")
    texts: list[list[str]] = []
    with nothing_left(), ModelManager() as models:
        for leaves in (False, True):
            model = models.load(smollm2_path, config=CONFIG)
            chat = ChatSession(model, temperature=0.0, deterministic=True, max_tokens=8)
            said = []
            for prompt in prompts:
                said.append(chat.send(prompt).text)
                if leaves:
                    models.unload(model)
                    assert models.workers() == ()
            texts.append(said)
    assert texts[0] == texts[1]


def test_an_async_manager_does_the_same(smollm2_path: Path) -> None:
    """Awaited, and told in the event loop."""

    async def main() -> list[ManagerEvent]:
        told: list[ManagerEvent] = []
        back = asyncio.Event()

        def tell(event: ManagerEvent) -> None:
            told.append(event)
            if sum(isinstance(event, Ready) for event in told) == 2:
                back.set()

        async with AsyncModelManager(isolation="thread") as models:
            models.subscribe(tell)
            model = await models.load(smollm2_path, config=CONFIG)
            await models.unload(model)
            assert await model.tokenize("hello")
            await back.wait()
        return told

    ready = [event for event in asyncio.run(main()) if isinstance(event, Ready)]
    assert [event.memory_bytes for event in ready] == [smollm2_path.stat().st_size] * 2

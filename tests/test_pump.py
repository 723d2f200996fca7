"""How consumers wait: no wake-up is lost, wherever the event comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from typing import Literal

import pytest

from localllm.aio.pump import LoopPump
from localllm.pump import PENDING, Pending, Step, ThreadPump
from tests.chats import in_thread


def _thread(pump: ThreadPump, step: Step[str]) -> str:
    return pump.run(step)


def _loop(pump: LoopPump, step: Step[str]) -> str:
    return asyncio.run(pump.run(step))


@pytest.mark.parametrize("steps", [["x"], [PENDING, "x"], [PENDING, PENDING, "x"]], ids=len)
@pytest.mark.parametrize("kind", [ThreadPump, LoopPump])
def test_an_event_that_comes_at_any_moment_ends_the_wait(
    kind: type[ThreadPump] | type[LoopPump], steps: list[str | Literal[Pending.PENDING]]
) -> None:
    """Before the first step, between it and falling asleep, or asleep."""
    pump = kind()
    left = list(steps)
    stepped: SimpleQueue[None] = SimpleQueue()

    def step() -> str | Literal[Pending.PENDING]:
        result = left.pop(0)
        stepped.put(None)
        return result

    got: list[str] = []

    def run() -> None:
        got.append(_thread(pump, step) if isinstance(pump, ThreadPump) else _loop(pump, step))

    wait = in_thread(run)
    for _ in steps:
        stepped.get(timeout=15)
        pump.wake()
    assert wait() is None
    assert got == ["x"]


@pytest.mark.parametrize("kind", [ThreadPump, LoopPump])
def test_a_wait_may_end_by_itself(kind: type[ThreadPump] | type[LoopPump]) -> None:
    """After the seconds that are asked for before each wait, though nobody wakes the consumer."""
    pump = kind()
    left: list[str | Literal[Pending.PENDING]] = [PENDING, PENDING, PENDING, PENDING, "x"]
    delays = [0.0, 0.001]

    def step() -> str | Literal[Pending.PENDING]:
        return left.pop(0)

    def again_in_s() -> float:
        return delays.pop(0)

    if isinstance(pump, ThreadPump):
        assert pump.run(step, again_in_s) == "x"
    else:
        assert asyncio.run(asyncio.wait_for(pump.run(step, again_in_s), 15)) == "x"
    assert delays == []


def test_all_sleepers_are_woken() -> None:
    """Several threads may wait for one turn: one for a chunk, another for the reply."""
    pump = ThreadPump()
    open_now: list[bool] = []
    asleep: SimpleQueue[None] = SimpleQueue()

    def step_of() -> Callable[[], str | Literal[Pending.PENDING]]:
        def step() -> str | Literal[Pending.PENDING]:
            asleep.put(None)
            return "x" if open_now else PENDING

        return step

    waits = [in_thread(lambda: pump.run(step_of())) for _ in range(5)]
    for _ in range(10):  # two steps each, before it sleeps
        asleep.get(timeout=15)
    open_now.append(True)
    pump.wake()
    assert [wait() for wait in waits] == [None] * 5

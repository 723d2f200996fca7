"""How a task waits: steps of a turn until one gives something, suspended in between."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, get_running_loop, sleep
from collections import deque
from contextlib import suppress

from localllm.pump import PENDING, Delay, Step, T, never


class LoopPump:
    """Suspends the awaiting task until a step gives something."""

    __slots__ = ("_sleepers",)

    def __init__(self) -> None:
        self._sleepers: deque[tuple[AbstractEventLoop, Future[None]]] = deque()

    def wake(self) -> None:
        """Let all sleepers step again; takes no lock and may be called from anywhere, a finalizer too.

        Only sleepers are woken, so however fast events come, the loop is called once for each time a task falls
        asleep.
        """
        while True:
            try:
                loop, sleeper = self._sleepers.popleft()
            except IndexError:
                return
            with suppress(RuntimeError):  # the loop is closed, and the sleeper gone with it
                loop.call_soon_threadsafe(_end, sleeper)

    async def run(self, step: Step[T], again_in_s: Delay = never) -> T:
        """Call `step` until it gives something, and return that.

        Args:
            step: Called at once, and after each wake-up.
            again_in_s: The seconds after which to call it without a wake-up, asked before each wait.

        Raises:
            asyncio.CancelledError: The task was cancelled.
        """
        await sleep(0)  # a backend that is always ready would else starve the other tasks
        while True:
            if (result := step()) is not PENDING:
                return result
            loop = get_running_loop()
            sleeper: Future[None] = loop.create_future()
            self._sleepers.append((loop, sleeper))
            if (result := step()) is not PENDING:  # it came before the sleeper was in place, so nobody wakes it
                return result
            delay_s = again_in_s()
            alarm = None if delay_s is None else loop.call_later(delay_s, _end, sleeper)
            try:
                await sleeper
            finally:
                if alarm is not None:
                    alarm.cancel()


def _end(sleeper: Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)

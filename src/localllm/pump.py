"""How a consumer waits: steps of a turn until one gives something, asleep in between."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from threading import Lock
from typing import Final, Literal, TypeAlias, TypeVar

T = TypeVar("T")


class Pending(Enum):
    """What a step returns that has nothing to give yet."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING

Step: TypeAlias = Callable[[], T | Literal[Pending.PENDING]]
"""Returns what the consumer waits for, or PENDING to be called again after the next wake-up."""

Delay: TypeAlias = Callable[[], float | None]
"""Seconds from now, or None for never."""


def never() -> None:
    """No delay: to be woken is enough."""


# A wait on a lock cannot be interrupted on Windows, nor elsewhere by a signal that another thread received: so it ends
# now and then to let Ctrl-C in.
_SLICE_S = 0.1


class ThreadPump:
    """Blocks the calling thread until a step gives something."""

    __slots__ = ("_sleepers",)

    def __init__(self) -> None:
        self._sleepers: deque[Lock] = deque()  # each locked by a sleeper, to be released by `wake`

    def wake(self) -> None:
        """Let all sleepers step again; takes no lock and may be called from anywhere, a finalizer too."""
        while True:
            try:
                self._sleepers.popleft().release()
            except IndexError:
                return

    def run(self, step: Step[T], again_in_s: Delay = never) -> T:
        """Call `step` until it gives something, and return that.

        Args:
            step: Called at once, and after each wake-up.
            again_in_s: The seconds after which to call it without a wake-up, asked before each wait.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed during the wait.
        """
        while True:
            if (result := step()) is not PENDING:
                return result
            sleeper = Lock()
            sleeper.acquire()
            self._sleepers.append(sleeper)
            if (result := step()) is not PENDING:  # it came before the sleeper was in place, so nobody wakes it
                return result
            delay_s = again_in_s()
            until_s = math.inf if delay_s is None else time.monotonic() + delay_s
            while (left_s := until_s - time.monotonic()) > 0 and not sleeper.acquire(timeout=min(_SLICE_S, left_s)):
                pass

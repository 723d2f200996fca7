"""How a consumer waits: steps of a turn until one gives something, asleep in between."""

from __future__ import annotations

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

    def run(self, step: Step[T]) -> T:
        """Call `step` until it gives something, and return that.

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
            while not sleeper.acquire(timeout=_SLICE_S):
                pass

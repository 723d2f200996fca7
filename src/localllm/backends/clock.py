"""The clock that a backend waits on: the system's, or in tests one that is moved by hand."""

from __future__ import annotations

import time
from abc import abstractmethod
from queue import Empty, SimpleQueue
from typing import Protocol

from localllm.types import Timings

_LONGEST_WAIT_S = 3600.0  # a wait may end early, so this only keeps the figure within what the system can take


class Bell:
    """Wakes the one thread that waits for it.

    Ringing takes no lock, so that it may be done from any thread, from a finalizer and from a signal handler. State
    is changed before the bell is rung, and read again after a wait: rings in between are one.
    """

    __slots__ = ("_rings", "_rung")

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()  # its put is reentrant, unlike Event.set and Condition.notify
        self._rung = False

    def ring(self) -> None:
        """End the wait under way, or else the next one."""
        self._rung = True
        self._rings.put(None)

    @property
    def rung(self) -> bool:
        """Whether it was rung since `listen`: its thread is awake, or about to be, whatever it seems to wait for."""
        return self._rung or not self._rings.empty()

    def listen(self) -> None:
        """Say that a wait begins, for `rung`; a ring before it that was not heard is still in the queue."""
        self._rung = False

    def wait(self, timeout_s: float | None = None) -> None:
        """Return once the bell was rung since the last wait, or after `timeout_s` seconds."""
        try:
            self._rings.get(timeout=timeout_s)
            while True:
                self._rings.get_nowait()
        except Empty:
            return


class Clock(Protocol):
    """What a backend needs to know of time; inject `localllm.testing.ManualClock` to test without waiting."""

    @abstractmethod
    def now(self) -> float:
        """Return the seconds since some fixed moment; never falls."""

    @abstractmethod
    def wait(self, bell: Bell, until_s: float) -> None:
        """Block until `bell` rings or `now()` reaches `until_s`; may return early, so callers look again."""


class SystemClock:
    """Real time: the system's monotonic clock."""

    def now(self) -> float:
        """Return the seconds since some fixed moment; never falls."""
        return time.monotonic()

    def wait(self, bell: Bell, until_s: float) -> None:
        """Block until `bell` rings or `now()` reaches `until_s`; may return early."""
        bell.wait(min(max(until_s - self.now(), 0.0), _LONGEST_WAIT_S))


def timings_of(
    *, submitted_s: float, started_s: float | None, first_s: float | None, ended_s: float, generated: int
) -> Timings:
    """Return the figures of a request from its moments, by one clock.

    Args:
        submitted_s: When it was made.
        started_s: When its first step began; None if it never did.
        first_s: When its first token was there; None if there was none.
        ended_s: When it ended.
        generated: Tokens generated.
    """
    started_s = ended_s if started_s is None else started_s
    decode_from_s = ended_s if first_s is None else first_s
    decode_s = ended_s - decode_from_s
    return Timings(
        queue_s=started_s - submitted_s,
        prefill_s=decode_from_s - started_s,
        first_token_s=0.0 if first_s is None else first_s - submitted_s,
        decode_s=decode_s,
        tokens_per_s=(generated - 1) / decode_s if generated > 1 and decode_s > 0 else 0.0,
    )

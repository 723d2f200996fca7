"""A clock that is moved by hand, so that tests of delays and time-outs neither wait nor guess."""

from __future__ import annotations

import math
import threading

from localllm.backends.clock import Bell
from localllm.errors import InvalidOptionError


class ManualClock:
    """A `Clock` that stands still until it is moved.

    ::

        clock = ManualClock()
        backend = FakeBackend([FakeReply("Hello there", delay_s=5)], clock=clock)
        ...                             # ask for a reply, on another thread or as a stream
        clock.wait_until_blocked()      # the model is waiting for its first piece
        clock.advance(5)                # it comes

    Args:
        start_s: What it shows at first, in seconds.
        auto_advance: It moves itself to the end of every wait, so that a delay of an hour takes no time and a reply
            that is slower than its `timeout_s` times out at once.
    """

    def __init__(self, start_s: float = 0.0, *, auto_advance: bool = False) -> None:
        self._now_s = start_s
        self._auto_advance = auto_advance
        self._changed = threading.Condition()
        self._waiting: list[tuple[Bell, float]] = []

    def now(self) -> float:
        """Return the seconds that it shows."""
        return self._now_s

    def wait(self, bell: Bell, until_s: float) -> None:
        """Block until `bell` rings or the clock is moved to `until_s`; may return early."""
        waiter = (bell, until_s)
        with self._changed:
            if self._auto_advance and until_s < math.inf:
                self._now_s = max(self._now_s, until_s)
            if until_s <= self._now_s:
                return
            bell.listen()
            self._waiting.append(waiter)
            self._changed.notify_all()
        bell.wait()
        with self._changed:
            self._waiting = [other for other in self._waiting if other is not waiter]

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake whoever waited for a moment that has come.

        What happens then happens on other threads: wait for its outcome, or for `wait_until_blocked`.

        Raises:
            InvalidOptionError: `seconds` is negative or no finite number: clocks do not go back.
        """
        if not 0 <= seconds < math.inf:
            raise InvalidOptionError(f"a clock is moved by 0 seconds or more; got {seconds!r}")
        with self._changed:
            self._now_s += seconds
            due = [waiter for waiter in self._waiting if waiter[1] <= self._now_s]
            self._waiting = [waiter for waiter in self._waiting if waiter[1] > self._now_s]
            for bell, _ in due:
                bell.ring()

    def wait_until_blocked(self, waiters: int = 1, *, within_s: float = 30.0) -> None:
        """Return once so many threads wait for the clock to be moved: all that could happen by now has happened.

        Args:
            waiters: How many; a `FakeBackend`'s model is one thread, whatever the number of its requests.
            within_s: Real seconds after which to give up.

        Raises:
            TimeoutError: They did not come to wait; the message says how many do.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._blocked() >= waiters, within_s):
                raise TimeoutError(f"after {within_s} s {self._blocked()} threads wait for the clock, not {waiters}")

    def _blocked(self) -> int:
        return sum(until_s < math.inf and not bell.rung for bell, until_s in self._waiting)

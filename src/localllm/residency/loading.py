"""One load on its way, and the threads that wait for it."""

from __future__ import annotations

import threading
from collections import deque

from attrs import define, field

from localllm.backends.base import LoadProgress, ProgressCallback
from localllm.errors import LoadCancelledError, LocalLLMError
from localllm.residency.copies import own_copy

_SLICE_S = 0.1  # a wait ends now and then to let Ctrl-C in, see `localllm.pump`


@define(eq=False)
class Waiter:
    """A thread that waits for a load.

    Args:
        on_progress: What it is told by; None agrees to everything.
    """

    on_progress: ProgressCallback | None
    untold: deque[LoadProgress] = field(factory=deque, init=False)
    asked: int = field(default=0, init=False)
    agreed: int = field(default=0, init=False)

    def ask(self, progress: LoadProgress) -> None:
        """Have it told, and wait for its agreement."""
        if self.on_progress is not None:
            self.untold.append(progress)
            self.asked += 1

    @property
    def willing(self) -> bool:
        """Whether it has agreed to all that the load has told so far."""
        return self.on_progress is None or self.agreed >= self.asked


class LoadUnderWay:
    """A load, and those who wait for it. `tell` and `end` are for the thread that loads.

    Each waiter is told all progress, on its own thread. The load goes on as soon as one of them wants it to, and ends
    when none does: one that refuses leaves, and one that takes its time holds up nobody but itself.

    Args:
        ref: What to call the model.
        wanted: Somebody has the model already and wants it back, whoever waits and leaves.
    """

    def __init__(self, ref: str, *, wanted: bool) -> None:
        self._ref = ref
        self._wanted = wanted
        self._changed = threading.Condition()
        self._waiters: list[Waiter] = []
        self._latest: LoadProgress | None = None
        self._stopped = False
        self._ended = False
        self._error: LocalLLMError | None = None

    def tell(self, progress: LoadProgress) -> bool:
        """Tell the waiters how far it is; False if the load is to end."""
        with self._changed:
            self._latest = progress
            for waiter in self._waiters:
                waiter.ask(progress)
            self._changed.notify_all()
            while not (self._stopped or self._wanted or any(waiter.willing for waiter in self._waiters)):
                self._changed.wait()
            return not self._stopped

    def end(self, error: LocalLLMError | None) -> None:
        """Let the waiters go: the model is there, or `error` says why not."""
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Have the load end; returns at once."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until it has ended."""
        with self._changed:
            while not self._ended:
                self._changed.wait(_SLICE_S)

    def enter(self, on_progress: ProgressCallback | None = None) -> Waiter:
        """Begin to wait, told first how far the load is now; go on with `wait`."""
        waiter = Waiter(on_progress)
        with self._changed:
            self._waiters.append(waiter)
            if self._latest is not None:
                waiter.ask(self._latest)
        return waiter

    def wait(self, waiter: Waiter) -> None:
        """Wait until the model is there, and tell the progress meanwhile.

        Raises:
            LoadCancelledError: `on_progress` returned False.
            LocalLLMError: The load has failed; an error of this waiter's own.
            BaseException: What `on_progress` raised, or Ctrl-C.
        """
        try:
            while (progress := self._next(waiter)) is not None:
                if waiter.on_progress is not None and waiter.on_progress(progress) is False:
                    raise refused(self._ref)
        finally:
            with self._changed:
                self._waiters.remove(waiter)
        if self._error is not None:
            raise own_copy(self._error)

    def _next(self, waiter: Waiter) -> LoadProgress | None:
        """Agree to what was told so far, and return the next progress; None at the end."""
        with self._changed:
            waiter.agreed = waiter.asked - len(waiter.untold)
            self._changed.notify_all()
            while not self._ended and (self._stopped or not waiter.untold):
                self._changed.wait(_SLICE_S)
            return waiter.untold.popleft() if waiter.untold and not self._stopped else None


def refused(ref: str) -> LoadCancelledError:
    """Return the error of a load that its caller does not want any more."""
    return LoadCancelledError(f"loading {ref!r} was cancelled by on_progress")

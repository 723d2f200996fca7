"""How far a download is: events for a progress bar, ten a second at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from attrs import define, evolve, field, frozen

from localllm.models.cancel import Cancellation

Phase: TypeAlias = Literal["resolving", "waiting", "checking", "downloading", "retrying", "done"]
"""Asking the Hub; another process downloads it; hashing what is there; data comes; a pause after a failure; the end."""

EVENTS_PER_S = 10
_RATE_WINDOW_S = 5.0


@frozen(kw_only=True)
class PullProgress:
    """How far a pull is.

    Args:
        ref: The reference as the user gave it.
        phase: What is being done.
        file: The file that it is done to; empty while that is unknown.
        done_bytes: Bytes of the whole model that are there, of all its files.
        total_bytes: Bytes of the whole model, if known.
        rate_bytes_per_s: Over the last seconds; None while unknown.
        time_left_s: At that rate; None while unknown.
        detail: Why it waits, in the phases "waiting" and "retrying".
    """

    ref: str
    phase: Phase
    file: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    rate_bytes_per_s: float | None = None
    time_left_s: float | None = None
    detail: str = ""


PullCallback: TypeAlias = Callable[[PullProgress], object]
"""Told how far a pull is, on the pulling thread. Returning False (and only False) cancels it."""


@define
class Rate:
    """Bytes per second over the last seconds."""

    _samples: deque[tuple[float, int]] = field(factory=deque, init=False)

    def add(self, now_s: float, done_bytes: int) -> float | None:
        """Note that `done_bytes` were there at `now_s`; return the rate, or None while it is unknown."""
        self._samples.append((now_s, done_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()
        (start_s, start_bytes), (end_s, end_bytes) = self._samples[0], self._samples[-1]
        return max(0, end_bytes - start_bytes) / (end_s - start_s) if end_s > start_s else None

    def reset(self) -> None:
        """Forget what was: after a pause the rate is another one."""
        self._samples.clear()


class Meter:
    """Turns what a pull does into events.

    A change of phase is told at once, everything else at most ten times a second.

    Args:
        ref: The reference as the user gave it.
        now: The clock, in seconds.
        callback: Who is told; returning False cancels.
        cancel: What is cancelled then.
    """

    def __init__(
        self, ref: str, *, now: Callable[[], float], callback: PullCallback | None, cancel: Cancellation
    ) -> None:
        self._now = now
        self._callback = callback
        self._cancel = cancel
        self._rate = Rate()
        self._last_s: float | None = None
        self._base_bytes = 0
        self._done_bytes = 0
        self.progress: PullProgress = PullProgress(ref=ref, phase="resolving")
        self.failure: BaseException | None = None
        """What the callback raised, which cancels, too."""

    def start_file(self, name: str, before_bytes: int, total_bytes: int | None) -> None:
        """Go on to the next file of the model, with `before_bytes` in the ones before it."""
        self._base_bytes = self._done_bytes = before_bytes
        self.progress = evolve(self.progress, file=name, total_bytes=total_bytes)
        self._last_s = None  # a new file is told at once

    def know_total(self, file_bytes: int) -> None:
        """Take the size of a model in one file from its server, where nobody told before."""
        if self.progress.total_bytes is None:
            self.progress = evolve(self.progress, total_bytes=self._base_bytes + file_bytes)

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Begin another phase, and tell."""
        if (phase, detail) != (self.progress.phase, self.progress.detail) or self._last_s is None:
            self._rate.reset()
            self.progress = evolve(
                self.progress,
                phase=phase,
                detail=detail,
                done_bytes=self._done_bytes,
                rate_bytes_per_s=None,
                time_left_s=None,
            )
            self._tell(self._now())

    def at(self, file_bytes: int) -> None:
        """Note that so many bytes of the current file are there; tell if it is time."""
        now_s = self._now()
        done = self._done_bytes = self._base_bytes + file_bytes
        if self._last_s is not None and now_s - self._last_s < 1 / EVENTS_PER_S:
            return
        rate = self._rate.add(now_s, done)
        total = self.progress.total_bytes
        left = (total - done) / rate if rate and total is not None and total >= done else None
        self.progress = evolve(self.progress, done_bytes=done, rate_bytes_per_s=rate, time_left_s=left)
        self._tell(now_s)

    def _tell(self, now_s: float) -> None:
        self._last_s = now_s
        if self._callback is None or self.failure is not None:
            return
        try:
            refused = self._callback(self.progress) is False
        except BaseException as exc:  # noqa: BLE001  # raised again by whoever pulls, once the file is closed
            self.failure, refused = exc, True
        if refused:
            self._cancel.cancel()

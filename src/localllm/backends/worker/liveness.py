"""When a worker counts as frozen: pure, so that it can be tested without one."""

from __future__ import annotations

from attrs import define, field

from localllm.backends.worker.process import Activity

_SILENT = 0.7
"""The part of the limit after which a silent worker is looked at more closely; the rest is for that look."""

TICKS = 10
"""How often to look within the limit."""

BEATS = 5
"""Heartbeats within the limit, if it is short."""


@define
class Liveness:
    """Tells frozen from busy. Asked `TICKS` times within the limit, it answers before the limit has passed.

    A heartbeat comes from a thread of Python's. Native code that keeps the GIL silences it, yet computes, or waits for
    a disk: both show in what the system says about the process.

    Args:
        limit_s: Seconds of silence that are too many.
    """

    limit_s: float
    _looked_s: float | None = field(default=None, init=False)
    _since_s: float = field(default=0.0, init=False)
    _seen: Activity | None = field(default=None, init=False)

    def is_silent(self, now_s: float, heard_s: float) -> bool:
        """Whether the worker has been silent for so long that it should be looked at.

        Args:
            now_s: The time.
            heard_s: When something came from it last.
        """
        looked_s, self._looked_s = self._looked_s, now_s
        if looked_s is None or now_s - looked_s > self.limit_s / 2:
            self._since_s = now_s  # we ourselves were stopped, or asleep: what it did meanwhile nobody knows
        silent = now_s - max(heard_s, self._since_s) > _SILENT * self.limit_s
        if not silent:
            self._seen = None
        return silent

    def is_frozen(self, seen: Activity | None) -> bool:
        """Whether a silent worker is frozen, judged by what it does now and did when it was last looked at."""
        before, self._seen = self._seen, seen
        if seen is None:  # a system that does not tell
            return True
        if seen.state in "RD":  # runs, would run if there were a processor for it, or waits for a disk
            return False
        return before is not None and before.ticks == seen.ticks

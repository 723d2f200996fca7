"""Finds the request that crashes its worker, among others that were only beside it: pure decisions on what to send."""

from __future__ import annotations

from collections.abc import Sequence

from localllm.backends.worker.request import FRUITLESS_LIVES, ActiveRequest


class Trials:
    """Says which requests a worker that was started again may be given, and when.

    One that was part of a crash without a token of its own is a suspect. Suspects are tried one at a time, the next
    when the one before has brought a token. One that has been a suspect too often is tried alone; if the worker ends
    then, too, that request is held to be the cause.
    """

    def __init__(self) -> None:
        self._alone: ActiveRequest | None = None

    @property
    def alone(self) -> ActiveRequest | None:
        """The request that nothing else may run beside now."""
        return self._alone

    def first(self, waiting: Sequence[ActiveRequest]) -> list[ActiveRequest]:
        """Return what of `waiting` a new worker is given first."""
        worst = max(waiting, key=lambda active: active.fruitless, default=None)
        self._alone = worst if worst is not None and worst.fruitless >= FRUITLESS_LIVES - 1 else None
        if self._alone is not None:
            return [self._alone]
        return [active for active in waiting if not active.suspect]

    def next(self, requests: Sequence[ActiveRequest]) -> list[ActiveRequest]:
        """Return what of `requests` the worker may be given now; those that it has are among them."""
        waiting = [active for active in requests if active.link is None]
        if self._alone is not None:
            if not self._alone.ended and not self._alone.proven:
                return []
            self._alone = None
            return [active for active in waiting if not active.suspect]
        if any(active.suspect and active.link is not None and not active.proven for active in requests):
            return []
        return [active for active in waiting if active.suspect][:1]

    def over(self) -> None:
        """Forget who was alone: the worker has ended."""
        self._alone = None

"""Cancelling a download from another thread or a signal handler."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from localllm.errors import DownloadCancelledError


class Cancellation:
    """Cancels the downloads that it was given to; others go on.

    `cancel` may be called from any thread and from a signal handler: it takes no lock, and it ends a wait for the
    network, too.
    """

    def __init__(self) -> None:
        self._cancelled = False
        self._wake: SimpleQueue[None] = SimpleQueue()  # its put is reentrant, unlike Event.set
        self._stops: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Cancel now, and whatever this is given to later."""
        self._cancelled = True
        self._wake.put(None)
        for stop in tuple(self._stops):
            stop()

    def check(self) -> None:
        """Do nothing unless cancelled.

        Raises:
            DownloadCancelledError: It is.
        """
        if self._cancelled:
            raise DownloadCancelledError("the download was cancelled; what had come is kept for the next try")

    def wait(self, seconds: float) -> None:
        """Let `seconds` pass, or less if cancelled meanwhile.

        Raises:
            DownloadCancelledError: It is cancelled.
        """
        until = time.monotonic() + seconds
        while not self._cancelled and (left := until - time.monotonic()) > 0:
            try:
                self._wake.get(timeout=left)
                self._wake.put(None)  # others may wait, too
            except Empty:
                break
        self.check()

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """While inside, `cancel` calls `stop`; at once if it was called before."""
        self._stops.append(stop)
        try:
            if self._cancelled:
                stop()
            yield
        finally:
            self._stops.remove(stop)

"""Starts a worker again, on a thread of its own, so that nobody has to wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from localllm.backends.worker.link import Link
from localllm.errors import ClosedError, LocalLLMError, WorkerStartError


class Starter:
    """Brings up one worker at a time.

    Args:
        make: Starts a process.
        bring_up: Makes that process load the model; blocks.
        done: Told the worker that is ready, or why there is none, on the starter's thread.
    """

    def __init__(
        self,
        make: Callable[[], Link],
        bring_up: Callable[[Link], object],
        done: Callable[[Link | LocalLLMError], object],
    ) -> None:
        self._make = make
        self._bring_up = bring_up
        self._done = done
        self._lock = threading.Lock()  # guards what follows
        self._coming: Link | None = None
        self._stopped = False

    @property
    def coming(self) -> Link | None:
        """The worker that is being brought up, if there is one."""
        return self._coming

    def begin(self) -> None:
        """Bring one up; returns at once."""
        threading.Thread(target=self._run, name="localllm-worker-start", daemon=True).start()

    def stop(self) -> None:
        """Start no more, and end the one that is coming up; waits for its end."""
        with self._lock:
            self._stopped = True
            coming = self._coming
        if coming is not None:
            coming.kill(ClosedError("the model is closed; load it again"))
            coming.ended.wait()

    def took_over(self) -> None:
        """Let go of the one that came up: it is somebody else's now."""
        with self._lock:
            self._coming = None

    def _run(self) -> None:
        try:
            self._done(self._started())
        except LocalLLMError as exc:
            self._done(exc)
        except Exception as exc:  # noqa: BLE001  # such as no thread or no memory left
            error = WorkerStartError(f"the worker cannot be started: {exc!r}")
            error.__cause__ = exc
            self._done(error)

    def _started(self) -> Link:
        link = self._make()
        with self._lock:
            self._coming = link
            stopped = self._stopped
        try:
            if stopped:
                link.kill(ClosedError("the model is closed; load it again"))
            self._bring_up(link)
        except BaseException:
            link.kill(ClosedError("the start has failed"))
            link.ended.wait()
            self.took_over()
            raise
        return link

"""A load that a task waits for: done on a thread, its progress told in the event loop, cancelled with the task."""

from __future__ import annotations

from asyncio import AbstractEventLoop, CancelledError, get_running_loop
from collections.abc import Callable
from threading import Lock

from localllm.backends.base import LoadProgress, ProgressCallback
from localllm.errors import LoadCancelledError
from localllm.model import Model


async def load_on_thread(load: Callable[[ProgressCallback], Model], on_progress: ProgressCallback | None) -> Model:
    """Run `load` on a thread and wait for its model.

    Args:
        load: Loads, given what to tell its progress; blocks.
        on_progress: Told in the event loop. Returning False, or raising, cancels the load.

    Raises:
        asyncio.CancelledError: The task was cancelled, and with it the load.
        LocalLLMError: As `load`.
    """
    loop = get_running_loop()
    handover = _Handover(loop, on_progress)
    try:
        model = await loop.run_in_executor(None, lambda: handover.give(load(handover.tell)))
    except CancelledError:
        unwanted = handover.cancel()
        if unwanted is not None:
            _ = loop.run_in_executor(None, unwanted.close)  # the task goes on; asyncio.run waits for the thread
        raise
    except LoadCancelledError:
        handover.raise_failure()
        raise
    if handover.cancelled:  # the last progress was refused while the thread was handing over
        await loop.run_in_executor(None, model.close)
        handover.raise_failure()
        raise LoadCancelledError("loading was cancelled by on_progress")
    return model


class _Handover:
    """Where the thread that loads and the task that waits meet: a model is given to the task, or closed."""

    def __init__(self, loop: AbstractEventLoop, on_progress: ProgressCallback | None) -> None:
        self._loop = loop
        self._on_progress = on_progress
        self._failure: BaseException | None = None
        self._model: Model | None = None
        self._lock = Lock()
        self.cancelled = False

    def tell(self, progress: LoadProgress) -> bool:
        """Pass progress on to the event loop; False once the load is cancelled. On the loading thread."""
        if self._on_progress is not None and not self.cancelled:
            try:
                self._loop.call_soon_threadsafe(self._tell, self._on_progress, progress)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self.cancelled = True
        return not self.cancelled

    def give(self, model: Model) -> Model:
        """Hand the model over, or close it if nobody wants it. On the loading thread."""
        with self._lock:
            if not self.cancelled:
                self._model = model
                return model
        model.close()
        raise LoadCancelledError("loading was cancelled")

    def cancel(self) -> Model | None:
        """Give the load up; returns the model if it was handed over already."""
        with self._lock:
            self.cancelled = True
            return self._model

    def raise_failure(self) -> None:
        """Raise what `on_progress` raised, if it did."""
        if self._failure is not None:
            raise self._failure from None

    def _tell(self, on_progress: ProgressCallback, progress: LoadProgress) -> None:
        if self.cancelled:
            return
        try:
            refused = on_progress(progress) is False
        except Exception as exc:  # noqa: BLE001  # raised again where the load is awaited
            self._failure, refused = exc, True
        if refused:
            self.cancel()

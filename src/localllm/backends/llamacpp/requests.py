"""Requests on their way to the engine: rendered and tokenized on a thread of their own, counted, cancellable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from attrs import define

from localllm.backends.base import GenerateRequest, Sink
from localllm.engine.engine import Engine, EngineHandle
from localllm.errors import BackendError, ClosedError, LocalLLMError, QueueFullError
from localllm.types import BackendEvent, GenerationEnded, Timings

_log = logging.getLogger("localllm.engine")


@define(eq=False)
class PendingRequest:
    """A request that is being prepared, then runs in the engine; the caller's handle."""

    request: GenerateRequest
    sink: Sink
    submitted_s: float
    refused: bool = False
    cancelled: bool = False
    running: EngineHandle | None = None

    def cancel(self) -> None:
        """Ask for it to end. Takes no lock: the preparing thread looks again after it has set `running`."""
        self.cancelled = True
        if self.running is not None:
            self.running.cancel()


class RequestDesk:
    """Takes requests from any thread, prepares them one after the other, and hands them to the engine.

    Args:
        engine: Where they go.
        prepare: Turns a request into the prompt's tokens; raises LocalLLMError for one that cannot be answered.
        limit: Requests that may be under way at once.
    """

    def __init__(self, engine: Engine, prepare: Callable[[GenerateRequest], Sequence[int]], limit: int) -> None:
        self._engine = engine
        self._prepare = prepare
        self._limit = limit
        self._under_way = 0
        self._closed = False
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[PendingRequest | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="localllm-prepare", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, sink: Sink) -> PendingRequest:
        """Take a request; returns at once.

        Raises:
            ClosedError: The desk is closed.
        """
        pending = PendingRequest(request, sink, time.monotonic())
        with self._lock:
            if self._closed:
                raise ClosedError("the model is closed; load it again")
            pending.refused = self._under_way >= self._limit
            if not pending.refused:
                self._under_way += 1
                pending.sink = self._counted(sink)
            self._inbox.put(pending)
        return pending

    def close(self) -> None:
        """Take no more requests, end those that are not in the engine yet, and wait for the thread."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _counted(self, sink: Sink) -> Sink:
        def counted(event: BackendEvent) -> None:
            if isinstance(event, GenerationEnded):
                with self._lock:
                    self._under_way -= 1
            sink(event)

        return counted

    def _run(self) -> None:
        while (pending := self._inbox.get()) is not None:
            try:
                self._hand_over(pending)
            except LocalLLMError as exc:
                _end(pending, exc)
            except Exception as exc:  # noqa: BLE001  # a request's failure is its own; the thread must live on
                error = BackendError(f"the prompt could not be prepared: {exc}")
                error.__cause__ = exc
                _end(pending, error)

    def _hand_over(self, pending: PendingRequest) -> None:
        if pending.cancelled or self._closed:
            _end(pending, None)
            return
        if pending.refused:
            raise QueueFullError(
                f"{self._limit} requests are under way, as many as may run and wait; "
                "wait for some to end, or raise ModelConfig(max_queue=...)"
            )
        request = pending.request
        prompt = self._prepare(request)
        pending.running = self._engine.submit(
            prompt,
            request.options,
            pending.sink,
            submitted_s=pending.submitted_s,
            preload=request.purpose == "preload",
            given=() if request.resume is None else request.resume.token_ids,
        )
        if pending.cancelled:  # cancel() may have come between the first look and `running`
            pending.running.cancel()


def _end(pending: PendingRequest, error: LocalLLMError | None) -> None:
    """End a request that never reached the engine."""
    waited_s = time.monotonic() - pending.submitted_s
    event = GenerationEnded("cancelled" if error is None else "error", timings=Timings(queue_s=waited_s), error=error)
    try:
        pending.sink(event)
    except Exception:  # noqa: BLE001  # a sink is somebody else's code; its request has ended anyway
        _log.exception("the sink of a request raised at its end")

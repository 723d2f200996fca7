"""One request to a model that may have to be brought back first."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Literal

from attrs import evolve

from localllm.backends.base import GenerateHandle, GenerateRequest, LoadedModel, Sink
from localllm.errors import BackendError, LocalLLMError
from localllm.types import BackendEvent, GenerationEnded

_numbers = itertools.count(1)
_thread = threading.local()


def delivering() -> bool:
    """Whether this thread is a backend's that hands an event over, and so must not wait for the backend."""
    return getattr(_thread, "delivering", False) is True


class Ticket:
    """A request from `generate` to its end; its own handle.

    While it waits for the model, a cancel, a time-out, a failed load and the model's return compete for it: whoever
    takes the one `_claim` decides. No lock is taken, as a cancel may come from a finalizer.

    Args:
        request: What is asked.
        sink: Where the events go.
        lease: The handle that asks.
        on_ended: Told once that it has ended, just before the sink is; takes no lock.
        now_s: When it was asked, by the manager's clock.
    """

    def __init__(
        self,
        request: GenerateRequest,
        sink: Sink,
        lease: object,
        on_ended: Callable[[Ticket], None],
        now_s: float,
    ) -> None:
        self.number: int = next(_numbers)
        self.lease = lease
        self._request = request
        self._sink = sink
        self._on_ended = on_ended
        self._began_s = now_s
        self._waited_s = 0.0
        self._claim = [True]
        self._inner: GenerateHandle | None = None
        self._cancelled = False
        self._over = False
        timeout_s = request.options.timeout_s
        self.deadline_s: float = math.inf if timeout_s is None else now_s + timeout_s

    def send(self, loaded: LoadedModel) -> None:
        """Hand it to the model at once.

        Raises:
            LocalLLMError: What the model raised; the request has not begun.
        """
        if self._taken():
            self._pass_to(loaded, self._request)

    def send_late(self, loaded: LoadedModel, now_s: float) -> None:
        """Hand it to a model that has come back, with what is left of its time; what is raised ends it."""
        if now_s >= self.deadline_s:
            self.end("timeout")
        elif self._taken():
            self._waited_s = now_s - self._began_s
            request = self._request
            if request.options.timeout_s is not None:
                left_s = self.deadline_s - now_s
                request = evolve(request, options=evolve(request.options, timeout_s=left_s))
            try:
                self._pass_to(loaded, request)
            except LocalLLMError as exc:
                self._receive(GenerationEnded("error", error=exc))
            except Exception as exc:  # noqa: BLE001  # a backend that breaks the rules; its caller has left
                self._receive(GenerationEnded("error", error=_broken(loaded, exc)))

    def cancel(self) -> None:
        """See `GenerateHandle`."""
        self._cancelled = True
        inner = self._inner
        if not self.end("cancelled") and inner is not None:
            inner.cancel()

    def end(self, reason: Literal["cancelled", "timeout", "error"], error: LocalLLMError | None = None) -> bool:
        """End it while it waits for the model; False if it does not."""
        if not self._taken():
            return False
        self._receive(GenerationEnded(reason, error=error))
        return True

    def _taken(self) -> bool:
        try:
            return self._claim.pop()
        except IndexError:  # another was first
            return False

    def _pass_to(self, loaded: LoadedModel, request: GenerateRequest) -> None:
        self._inner = inner = loaded.generate(request, self._receive)
        if self._over:  # already; the handle holds our sink, and the circle would keep both in memory
            self._inner = None
        elif self._cancelled:  # before there was a handle to do it with
            inner.cancel()

    def _receive(self, event: BackendEvent) -> None:
        if isinstance(event, GenerationEnded):
            self._over = True
            self._inner = None
            self._on_ended(self)
            if self._waited_s:
                event = _later(event, self._waited_s)
        before = delivering()
        _thread.delivering = True
        try:
            self._sink(event)
        finally:
            _thread.delivering = before


def _broken(loaded: LoadedModel, exc: Exception) -> BackendError:
    backend = loaded.info.backend or type(loaded).__name__
    error = BackendError(f"the backend {backend!r} failed in generate: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _later(event: GenerationEnded, waited_s: float) -> GenerationEnded:
    """Count the wait for the model as time in the queue."""
    timings = event.timings
    first_token_s = timings.first_token_s + waited_s if event.usage.completion_tokens else 0.0
    return evolve(event, timings=evolve(timings, queue_s=timings.queue_s + waited_s, first_token_s=first_token_s))

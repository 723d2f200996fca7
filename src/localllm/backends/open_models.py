"""The models of a backend that are still open: what its close has to close."""

from __future__ import annotations

from threading import Lock
from typing import Generic, Protocol, TypeVar

from localllm.errors import ClosedError


class _Closable(Protocol):
    @property
    def closed(self) -> bool: ...


M = TypeVar("M", bound=_Closable)


class OpenModels(Generic[M]):
    """The open models of one backend, until it is closed itself. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._models: list[M] = []
        self._closed = False

    def check(self, backend: str) -> None:
        """Go on if the backend of this name is open.

        Raises:
            ClosedError: It is closed.
        """
        if self._closed:
            raise ClosedError(f"the backend {backend!r} is closed; make a new one")

    def add(self, model: M, backend: str) -> None:
        """Keep a model that has been loaded, and forget those that have been closed.

        Raises:
            ClosedError: The backend was closed meanwhile; the model is the caller's to close.
        """
        with self._lock:
            self.check(backend)
            self._models = [other for other in self._models if not other.closed] + [model]

    def close(self) -> list[M]:
        """Take no more models, and return those that are to be closed; none at a second call."""
        with self._lock:
            self._closed = True
            models, self._models = self._models, []
        return models

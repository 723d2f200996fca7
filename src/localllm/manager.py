"""Loads models: the first thing that an application makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Literal, Self

from localllm.backends.base import Backend, LoadedModel, LoadProgress, ModelSpec, ProgressCallback
from localllm.backends.lookup import LLAMA_CPP, backend_maker
from localllm.errors import ClosedError, InvalidOptionError, LoadCancelledError, LocalLLMError, ModelLoadError
from localllm.model import Model as Model
from localllm.models.refs import resolve
from localllm.options import ModelConfig

Isolation = Literal["process", "thread"]
"""Where a backend runs."""


class ModelManager:
    """Loads models and closes them. Safe to use from any thread; a context manager that closes it.

    Args:
        backend: None or "llama.cpp"; "package.module:Class" for another one; or an instance, which stays the caller's:
            closing the manager closes the models that it loaded and not the backend.
        isolation: "thread" runs the backend in this process, and so does None. "process" is not available in this
            version.

    Raises:
        InvalidOptionError: No such backend, or no such isolation for it.
        BackendUnavailableError: The backend's module does not import.
    """

    def __init__(self, backend: Backend | str | None = None, *, isolation: Isolation | None = None) -> None:
        _check_isolation(isolation, backend)
        if isinstance(backend, Backend):
            self._make = _constant(backend)
        elif backend is None or isinstance(backend, str):
            self._make = backend_maker(LLAMA_CPP if backend is None else backend)
        else:
            raise InvalidOptionError(
                f"backend must be a Backend, the name of one, or None for {LLAMA_CPP}; got {backend!r:.80}"
            )
        self._owns_backend = not isinstance(backend, Backend)
        self._backend: Backend | None = None  # made by the first load
        self._models: list[Model] = []
        self._closed = False
        self._lock = Lock()  # guards what is above; not held while anything is loaded or closed

    def load(
        self,
        ref: str | os.PathLike[str],
        *,
        config: ModelConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> Model:
        """Load a model and wait until it is ready.

        Args:
            ref: An alias such as "smollm2-135m", or the path of a GGUF file. For a backend without files, its own name.
            config: How to load it.
            on_progress: Told how far the load is, on this or another thread. Returning False cancels the load; what it
                raises cancels it, too, and is raised here.

        Returns:
            The model. Each load is one of its own.

        Raises:
            ModelNotFoundError: The reference leads to no file.
            ModelLoadError: The model cannot be loaded; InvalidModelFileError if the file is damaged,
                LoadCancelledError if `on_progress` returned False.
            BackendUnavailableError: A package of the backend is missing.
            InvalidOptionError: An argument of the wrong type.
            ClosedError: The manager is closed.
        """
        backend = self._open()
        spec = _spec(backend, ref, config)
        watch = _Watch(on_progress, lambda: self._closed)
        try:
            loaded = _load(backend, spec, watch)
        except ModelLoadError as exc:
            if watch.failure is not None:
                raise watch.failure from None  # the caller's own exception, which is why the load failed
            self._check_open(exc)
            raise
        model = Model(loaded, on_closed=self._forget)
        with self._lock:
            if not self._closed and not watch.refused:
                self._models.append(model)
                return model
        # Refused too late for the backend, or closed meanwhile: the model belongs to nobody.
        model.close()
        self._check_open(None)
        raise watch.failure or LoadCancelledError(f"loading {spec.ref!r} was cancelled by on_progress")

    def close(self) -> None:
        """Close all models and the backend, and end running loads; waits for the models. May be called twice."""
        with self._lock:
            self._closed = True
            models, backend = list(self._models), self._backend
        with ExitStack() as closing:  # one that fails does not keep the others open
            if backend is not None and self._owns_backend:
                closing.callback(backend.close)
            for model in models:
                closing.callback(model.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Backend:
        with self._lock:
            self._check_open(None)
            if self._backend is None:
                self._backend = self._make()
            return self._backend

    def _check_open(self, cause: BaseException | None) -> None:
        if self._closed:
            raise ClosedError("this ModelManager is closed; make a new one") from cause

    def _forget(self, model: Model) -> None:
        with self._lock:
            if model in self._models:
                self._models.remove(model)


def _constant(backend: Backend) -> Callable[[], Backend]:
    return lambda: backend


class _Watch:
    """Stands between a backend and the caller's progress function, whose exceptions must not cross native code."""

    def __init__(self, callback: ProgressCallback | None, stopped: Callable[[], bool]) -> None:
        self._callback = callback
        self._stopped = stopped
        self.refused = False
        self.failure: BaseException | None = None

    def __call__(self, progress: LoadProgress) -> bool:
        if self.refused or self._stopped():
            return False
        try:
            self.refused = self._callback is not None and self._callback(progress) is False
        except BaseException as exc:  # noqa: BLE001  # raised again by `load`, once the backend has returned
            self.refused = True
            self.failure = exc
        return not self.refused


def _load(backend: Backend, spec: ModelSpec, watch: _Watch) -> LoadedModel:
    """Load; the one place where what a backend raises is made ours."""
    try:
        return backend.load(spec, watch)
    except LocalLLMError:
        raise
    except Exception as exc:
        raise ModelLoadError(
            f"the backend {backend.name!r} failed to load {spec.ref!r}: {type(exc).__name__}: {exc}"
        ) from exc


def _spec(backend: Backend, ref: str | os.PathLike[str], config: ModelConfig | None) -> ModelSpec:
    given: object = ref  # what users pass may be anything
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise InvalidOptionError(f"ref must be a str or a path; got {given!r:.80}")
    if config is not None and not isinstance(config, ModelConfig):
        raise InvalidOptionError(f"config must be a ModelConfig or None; got {config!r:.80}")
    path = resolve(ref) if backend.uses_files else None
    return ModelSpec(ref=os.fspath(ref), path=path, config=config or ModelConfig())


def _check_isolation(isolation: Isolation | None, backend: Backend | str | None) -> None:
    match isolation:
        case None | "thread":
            return
        case "process" if isinstance(backend, Backend):
            raise InvalidOptionError(
                "an instance of a backend cannot run in a process of its own; pass its import path "
                "('package.module:Class') as `backend`, or leave isolation out"
            )
        case "process":
            raise InvalidOptionError("isolation='process' is not available in this version; use 'thread' or None")
        case _:
            raise InvalidOptionError(f"isolation must be 'thread' or None; got {isolation!r:.80}")

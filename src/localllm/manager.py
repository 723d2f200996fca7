"""Loads models: the first thing that an application makes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from localllm.backends.base import Backend, LoadedModel, LoadProgress, ModelSpec, ProgressCallback
from localllm.backends.lookup import LLAMA_CPP, OnCrash, backend_maker, in_workers, workers_of
from localllm.errors import (
    ClosedError,
    DownloadCancelledError,
    InvalidOptionError,
    LoadCancelledError,
    LocalLLMError,
    ModelLoadError,
    ModelNotFoundError,
)
from localllm.model import Model as Model
from localllm.models.cancel import Cancellation
from localllm.models.estimate import MemoryEstimate
from localllm.models.info import ModelInfo
from localllm.models.progress import PullCallback, PullProgress
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel, Verification
from localllm.options import ModelConfig, Timeouts

if TYPE_CHECKING:  # loaded only where a model runs in a process of its own
    from localllm.backends.worker.info import WorkerInfo

Isolation = Literal["process", "thread"]
"""Where a backend runs."""

DEFAULT_TIMEOUTS = Timeouts()


class ModelManager:
    """Loads models and closes them. Safe to use from any thread; a context manager that closes it.

    Args:
        backend: None or "llama.cpp"; "package.module:Class" for another one; or an instance, which stays the caller's:
            closing the manager closes the models that it loaded and not the backend.
        isolation: "process" runs each model in a process of its own, which may crash without harm; "thread" runs it in
            this one. None is "process" for a backend that is named, and "thread" for an instance.
        on_crash: What becomes of the replies that a crash of such a process interrupts: "raise" ends them with
            WorkerCrashedError, "resume" goes on with them in a new process, where they were broken off.
        timeouts: How long a model in a process of its own may take for what.
        memory_limit_bytes: Memory that such a process may have, mapped weights not counted; on Linux only.
        interpreter: The Python that runs such a process; None is the one that runs this. For frozen applications.
        store: Where models are found and kept; None is the one of this user.

    Raises:
        InvalidOptionError: No such backend, no such isolation for it, or an option out of range.
        BackendUnavailableError: The backend's module does not import. In a process of its own that is found out by the
            first load, unless there is no such module.
    """

    def __init__(
        self,
        backend: Backend | str | None = None,
        *,
        isolation: Isolation | None = None,
        on_crash: OnCrash = "raise",
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        memory_limit_bytes: int | None = None,
        interpreter: str | os.PathLike[str] | None = None,
        store: ModelStore | None = None,
    ) -> None:
        _check_isolation(isolation, backend)
        _check_worker_options(on_crash, timeouts)
        if isinstance(backend, Backend) or isolation == "thread":
            _check_no_process(memory_limit_bytes=memory_limit_bytes, interpreter=interpreter)
        if isinstance(backend, Backend):
            self._make = _constant(backend)
        elif backend is not None and not isinstance(backend, str):
            raise InvalidOptionError(
                f"backend must be a Backend, the name of one, or None for {LLAMA_CPP}; got {backend!r:.80}"
            )
        elif isolation == "thread":
            self._make = backend_maker(backend or LLAMA_CPP)
        else:
            self._make = in_workers(
                LLAMA_CPP if backend is None else backend,
                on_crash=on_crash,
                timeouts=timeouts,
                memory_limit_bytes=memory_limit_bytes,
                interpreter=None if interpreter is None else os.fspath(interpreter),
            )
        if store is not None and not isinstance(store, ModelStore):
            raise InvalidOptionError(f"store must be a ModelStore or None; got {store!r:.80}")
        self.store: ModelStore = ModelStore() if store is None else store
        self._owns_backend = not isinstance(backend, Backend)
        self._backend: Backend | None = None  # made by the first load
        self._models: list[Model] = []
        self._closed = False
        self._lock = Lock()  # guards what is above; not held while anything is made, loaded or closed
        self._making = Lock()  # held while the backend is made, so that it is made once

    def load(
        self,
        ref: str | os.PathLike[str],
        *,
        config: ModelConfig | None = None,
        on_progress: ProgressCallback | None = None,
        fetch: bool = True,
    ) -> Model:
        """Load a model and wait until it is ready.

        Args:
            ref: An alias such as "smollm2-135m", the path of a GGUF file, "hf:org/repo:Q4_K_M" or an address; what is
                not on this machine yet is fetched first. For a backend without files, its own name.
            config: How to load it.
            on_progress: Told how far the load is, on this or another thread. Returning False cancels the load; what it
                raises cancels it, too, and is raised here.
            fetch: Whether to fetch a model that is not on this machine.

        Returns:
            The model. Each load is one of its own.

        Raises:
            ModelNotFoundError: The reference leads to no model.
            DownloadError: The model had to be fetched and could not be.
            ModelLoadError: The model cannot be loaded; InvalidModelFileError if the file is damaged,
                LoadCancelledError if `on_progress` returned False.
            BackendUnavailableError: A package of the backend is missing.
            WorkerStartError: The model's process cannot be started.
            WorkerCrashedError: It ended.
            InvalidOptionError: An argument of the wrong type.
            ClosedError: The manager is closed.
        """
        backend = self._open()
        watch = _Watch(on_progress, lambda: self._closed)
        spec = self._spec(backend, ref, config, watch if fetch else None)
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

    def pull(
        self,
        ref: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> StoredModel:
        """Fetch a model, or find it already here, and wait until it is whole. See `ModelStore.pull`."""
        return self.store.pull(ref, sha256=sha256, on_progress=on_progress, cancel=cancel)

    def list(self, *, others: bool = False) -> tuple[StoredModel, ...]:
        """Return the models that are on this machine. See `ModelStore.list`."""
        return self.store.list(others=others)

    def inspect(self, ref: str | os.PathLike[str]) -> ModelInfo:
        """Return what the header of a model on this machine says, without loading it. See `ModelStore.inspect`."""
        return self.store.inspect(ref)

    def estimate(self, ref: str | os.PathLike[str], config: ModelConfig | None = None) -> MemoryEstimate:
        """Return how much memory a model on this machine will take with llama.cpp, from its header alone.

        Args:
            ref: The model.
            config: How it is to be loaded.

        Raises:
            ModelNotFoundError: It is not here.
            InvalidModelFileError: It is no GGUF model, or a damaged one.
            InvalidOptionError: Options that exclude each other.
        """
        from localllm.backends.llamacpp.hardware import free_bytes, physical_cores
        from localllm.backends.llamacpp.sizing import estimate
        from localllm.models.checks import check_file

        header = check_file(self.store.resolve(ref))
        return estimate(header, config or ModelConfig(), free_bytes=free_bytes(), cores=physical_cores())

    def verify(
        self,
        ref: str | os.PathLike[str],
        *,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> Verification:
        """Read all of a model's files and compare them with their checksums. See `ModelStore.verify`."""
        return self.store.verify(ref, on_progress=on_progress, cancel=cancel)

    def remove(self, ref: str | os.PathLike[str]) -> StoredModel:
        """Delete a model of the store. See `ModelStore.remove`."""
        return self.store.remove(ref)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return what there is to see of the processes that models run in; none for models in this process."""
        with self._lock:
            backend = self._backend
        return workers_of(backend)

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

    def _spec(
        self, backend: Backend, ref: str | os.PathLike[str], config: ModelConfig | None, watch: _Watch | None
    ) -> ModelSpec:
        given: object = ref  # what users pass may be anything
        if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
            raise InvalidOptionError(f"ref must be a str or a path; got {given!r:.80}")
        if config is not None and not isinstance(config, ModelConfig):
            raise InvalidOptionError(f"config must be a ModelConfig or None; got {config!r:.80}")
        path = self._file(ref, watch) if backend.uses_files else None
        return ModelSpec(ref=os.fspath(ref), path=path, config=config or ModelConfig())

    def _file(self, ref: str | os.PathLike[str], watch: _Watch | None) -> Path:
        """Return the model's file, fetched first if it is elsewhere and there is somebody to watch that."""
        try:
            return self.store.resolve(ref)
        except ModelNotFoundError:
            if watch is None or not self.store.fetchable(ref):
                raise
        try:
            self.store.pull(ref, on_progress=watch.pulling)
        except DownloadCancelledError as exc:
            self._check_open(exc)
            raise watch.failure or LoadCancelledError(f"fetching {ref!r} was cancelled by on_progress") from None
        return self.store.resolve(ref)

    def _open(self) -> Backend:
        with self._making:
            with self._lock:
                self._check_open(None)
                made = self._backend
            if made is not None:
                return made
            backend = self._make()
            with self._lock:
                self._backend, closed = backend, self._closed
        if closed and self._owns_backend:
            backend.close()
        self._check_open(None)
        return backend

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

    def pulling(self, progress: PullProgress) -> bool:
        """Tell how far the download is that comes before the load."""
        total = progress.total_bytes
        return self(LoadProgress(progress.phase, min(1.0, progress.done_bytes / total) if total else 0.0))


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


def _check_worker_options(on_crash: object, timeouts: object) -> None:
    if on_crash not in ("raise", "resume"):
        raise InvalidOptionError(f"on_crash must be 'raise' or 'resume'; got {on_crash!r:.80}")
    if not isinstance(timeouts, Timeouts):
        raise InvalidOptionError(f"timeouts must be a Timeouts, such as Timeouts(load_s=60); got {timeouts!r:.80}")


def _check_no_process(**options: object) -> None:
    """Refuse options that would be without effect in this process, and whose absence would be a surprise."""
    for name, value in options.items():
        if value is not None:
            raise InvalidOptionError(f"{name} is for models in processes of their own; use isolation='process'")


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
            return
        case _:
            raise InvalidOptionError(f"isolation must be 'process', 'thread' or None; got {isolation!r:.80}")

"""Loads models: the first thing that an application makes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Self

from attrs import evolve

from localllm.backends.base import Backend, ModelSpec, ProgressCallback
from localllm.backends.choice import Isolation as Isolation
from localllm.backends.choice import choose_backend
from localllm.backends.clock import Clock, SystemClock
from localllm.backends.lookup import OnCrash, workers_of
from localllm.errors import ClosedError, InvalidOptionError, LocalLLMError, ModelNotFoundError
from localllm.model import Model as Model
from localllm.models.cancel import Cancellation
from localllm.models.estimate import MemoryEstimate
from localllm.models.info import ModelInfo
from localllm.models.progress import PullCallback
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel, Verification
from localllm.options import ModelConfig, Timeouts
from localllm.residency.board import Board
from localllm.residency.bringing import bring
from localllm.residency.events import ManagerSnapshot
from localllm.residency.fetching import Fetching
from localllm.residency.identity import Identity, identity_of, stamp_of
from localllm.residency.reckoning import llama_estimate, reckon_bytes
from localllm.residency.resident import Resident
from localllm.residency.residents import Residents, check_limits
from localllm.residency.subscription import Listener, Source, Subscription, Watch, check_listener

if TYPE_CHECKING:  # loaded only where a model runs in a process of its own
    from localllm.backends.worker.info import WorkerInfo

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
        memory_budget_bytes: What the models in memory may take together. Before a load, models that have nothing to do
            are unloaded, the least recently used first, as many as need be; they come back at their next use.
        keep_alive_s: Seconds after its last use at which a model that has nothing to do is unloaded; it comes back at
            its next use. None keeps models in memory.
        clock: What `keep_alive_s` goes by; a `localllm.testing.ManualClock` makes it a test's own.

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
        memory_budget_bytes: int | None = None,
        keep_alive_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._make = choose_backend(
            backend,
            isolation=isolation,
            on_crash=on_crash,
            timeouts=timeouts,
            memory_limit_bytes=memory_limit_bytes,
            interpreter=interpreter,
        )
        check_limits(memory_budget_bytes, keep_alive_s)
        if store is not None and not isinstance(store, ModelStore):
            raise InvalidOptionError(f"store must be a ModelStore or None; got {store!r:.80}")
        self._store = store
        self._owns_backend = not isinstance(backend, Backend)
        self._backend: Backend | None = None  # made by the first load
        self._closed = False
        self._lock = Lock()  # guards what is above; not held while anything is made, loaded or closed
        self._making = Lock()  # held while the backend is made, so that it is made once
        numbers = itertools.count(1)
        self._board = Board()
        self._fetching = Fetching(self._board, numbers)
        self._residents = Residents(
            board=self._board,
            clock=SystemClock() if clock is None else clock,
            numbers=numbers,
            memory_budget_bytes=memory_budget_bytes,
            keep_alive_s=keep_alive_s,
        )
        self._reckons = memory_budget_bytes is not None

    @property
    def store(self) -> ModelStore:
        """Where models are found and kept; the one of this user is made when it is first needed.

        Raises:
            InvalidOptionError: What the environment says of it cannot be used, such as `HF_ENDPOINT`.
        """
        store = self._store
        if store is None:
            made = ModelStore()
            with self._lock:
                store = self._store = self._store or made
        return store

    def load(
        self,
        ref: str | os.PathLike[str],
        *,
        config: ModelConfig | None = None,
        on_progress: ProgressCallback | None = None,
        fetch: bool = True,
        pin: bool = False,
    ) -> Model:
        """Load a model and wait until it is ready.

        The same file with the same config is loaded once, whoever asks for it: each caller gets a handle of its own,
        and the model is freed with the last of them. A file that has been replaced is another model.

        Args:
            ref: An alias such as "smollm2-135m", the path of a GGUF file, "hf:org/repo:Q4_K_M" or an address; what is
                not on this machine yet is fetched first. For a backend without files, its own name.
            config: How to load it.
            on_progress: Told how far the load is, on this thread, also if another caller began it. Returning False
                cancels the load for this caller, and for the machine if nobody else waits for it; what it raises
                cancels it, too, and is raised here.
            fetch: Whether to fetch a model that is not on this machine.
            pin: Whether the model stays in memory though it has nothing to do; see `Model.pin`.

        Returns:
            A handle of the model.

        Raises:
            ModelNotFoundError: The reference leads to no model.
            DownloadError: The model had to be fetched and could not be.
            ModelLoadError: The model cannot be loaded; InvalidModelFileError if the file is damaged,
                InsufficientMemoryError if it does not fit, LoadCancelledError if `on_progress` returned False.
            BackendUnavailableError: A package of the backend is missing.
            WorkerStartError: The model's process cannot be started.
            WorkerCrashedError: It ended.
            InvalidOptionError: An argument of the wrong type.
            ClosedError: The manager is closed.
        """
        backend = self._open()
        spec, identity = self._found(backend, ref, config, on_progress, fetch=fetch)
        try:
            lease = self._residents.lease(
                identity,
                spec,
                on_progress,
                bring=partial(bring, backend, spec, identity),
                reckon=partial(reckon_bytes, backend, spec, identity, exactly=self._reckons),
                pin=pin,
            )
        except LocalLLMError as exc:
            self._check_open(exc)
            raise
        return Model(lease)

    def unload(self, model: Model | str | os.PathLike[str], *, force: bool = False) -> None:
        """Free a model's memory now, and wait for that. Handles stay valid: the next use brings it back.

        Pinned models are unloaded, too. Closing a handle is `Model.close`.

        Args:
            model: A handle, or a reference by which the model was loaded, with whatever config.
            force: Also if it has requests, which then end as cancelled.

        Raises:
            ModelBusyError: It has requests, or is being loaded.
            ModelNotFoundError: This manager has no such model.
            ClosedError: The handle is closed.
        """
        for resident in self._named(model):
            self._residents.unload(resident, force=force)

    def snapshot(self) -> ManagerSnapshot:
        """Return what there is to see of the models and downloads now, as a frozen value."""
        return self._with_memory(self._board.snapshot())

    def subscribe(self, listener: Listener) -> Subscription:
        """Have `listener` told what happens: first a snapshot, then every event, in order, one at a time.

        It is called on a thread of its own, and holds up nothing but itself. What it raises is logged.

        Args:
            listener: Told; see `ManagerEvent`.

        Returns:
            What ends it: `close()`, a call of it, or leaving a `with`. Closing the manager ends it, too.

        Raises:
            InvalidOptionError: The listener cannot be called.
            ClosedError: The manager is closed.
        """
        check_listener(listener)
        return Subscription(self._source, listener)

    def watch(self) -> Watch:
        """Return what happens as an iterator that waits: first a snapshot, then every event, until the manager closes.

        Raises:
            ClosedError: The manager is closed.
        """
        return Watch(self._source)

    def pull(
        self,
        ref: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> StoredModel:
        """Fetch a model, or find it already here, and wait until it is whole. See `ModelStore.pull`."""
        return self._fetching.pull(self.store, ref, sha256=sha256, on_progress=on_progress, cancel=cancel)

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
        return llama_estimate(
            ModelSpec(ref=os.fspath(ref), path=self.store.resolve(ref), config=config or ModelConfig())
        )

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
            backend = self._backend if self._owns_backend else None
        self._fetching.cancel()
        try:
            self._residents.close(None if backend is None else backend.close)
        finally:
            self._board.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _found(
        self,
        backend: Backend,
        ref: str | os.PathLike[str],
        config: ModelConfig | None,
        on_progress: ProgressCallback | None,
        *,
        fetch: bool,
    ) -> tuple[ModelSpec, Identity]:
        """Return what to load, fetched first if it is elsewhere, and what it is known by."""
        given: object = ref  # what users pass may be anything
        if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
            raise InvalidOptionError(f"ref must be a str or a path; got {given!r:.80}")
        if config is not None and not isinstance(config, ModelConfig):
            raise InvalidOptionError(f"config must be a ModelConfig or None; got {config!r:.80}")
        spec = ModelSpec(ref=os.fspath(ref), config=config or ModelConfig())
        if not backend.uses_files:
            return spec, identity_of(spec.ref, (), spec.config)
        try:
            model = self._fetching.find(self.store, ref, on_progress, fetch=fetch)
        except LocalLLMError as exc:
            self._check_open(exc)
            raise
        spec = evolve(spec, path=model.path)
        return spec, identity_of(spec.ref, (file.path for file in model.files), spec.config)

    def _named(self, model: object) -> tuple[Resident, ...]:
        """Return the models that `unload` means."""
        if isinstance(model, Model):
            model._lease.check_open()
            found = self._residents.find(lambda resident: resident is model._lease.resident)
        elif isinstance(model, (str, os.PathLike)):
            found = self._by_ref(os.fspath(model))
        else:
            raise InvalidOptionError(f"model must be a Model, or a reference that one was loaded by; got {model!r:.80}")
        if not found:
            here = ", ".join(sorted({repr(resident.spec.ref) for resident in self._residents.find(_any)})) or "none"
            raise ModelNotFoundError(f"this ModelManager has not loaded {model!r:.80}; it has loaded: {here}")
        return found

    def _by_ref(self, ref: str) -> tuple[Resident, ...]:
        found = self._residents.find(lambda resident: ref in resident.refs)
        backend = self._backend
        if found or backend is None or not backend.uses_files:
            return found
        try:
            stamp = stamp_of(self.store.resolve(ref))
        except LocalLLMError:  # it leads nowhere, so nothing was loaded by it
            return ()
        return self._residents.find(lambda other: other.spec.path is not None and stamp_of(other.spec.path) == stamp)

    def _source(self, wake: Callable[[], object]) -> Source:
        return Source(self._board.subscribe(wake, self._with_memory), self._board)

    def _with_memory(self, snapshot: ManagerSnapshot) -> ManagerSnapshot:
        memory = self._residents.memory()
        models = (evolve(model, memory_bytes=memory.get(model.id, model.memory_bytes)) for model in snapshot.models)
        return evolve(snapshot, models=tuple(models))

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


def _any(resident: Resident) -> bool:
    return True

"""The async twin of `localllm.manager`: the same manager, asked on a thread."""

from __future__ import annotations

import asyncio
import os
from asyncio import to_thread
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from localllm.aio.loading import load_on_thread
from localllm.aio.model import AsyncModel
from localllm.aio.watch import AsyncSubscription, AsyncWatch
from localllm.backends.base import Backend, ProgressCallback
from localllm.backends.clock import Clock
from localllm.backends.lookup import OnCrash
from localllm.manager import DEFAULT_TIMEOUTS, Isolation, ModelManager
from localllm.models.cancel import Cancellation
from localllm.models.estimate import MemoryEstimate
from localllm.models.info import ModelInfo
from localllm.models.progress import PullCallback
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel, Verification
from localllm.options import ModelConfig, Timeouts
from localllm.residency.events import ManagerSnapshot
from localllm.residency.subscription import Listener, check_listener

if TYPE_CHECKING:  # loaded only where a model runs in a process of its own
    from localllm.backends.worker.info import WorkerInfo

T = TypeVar("T")


class AsyncModelManager:
    """Loads models and closes them; an async context manager that closes it.

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
        self._sync = ModelManager(
            backend,
            isolation=isolation,
            on_crash=on_crash,
            timeouts=timeouts,
            memory_limit_bytes=memory_limit_bytes,
            interpreter=interpreter,
            store=store,
            memory_budget_bytes=memory_budget_bytes,
            keep_alive_s=keep_alive_s,
            clock=clock,
        )

    async def load(
        self,
        ref: str | os.PathLike[str],
        *,
        config: ModelConfig | None = None,
        on_progress: ProgressCallback | None = None,
        fetch: bool = True,
        pin: bool = False,
    ) -> AsyncModel:
        """Load a model, or share one that is loaded already. Cancelling the task cancels the load for this task.

        Args:
            ref: An alias such as "smollm2-135m", the path of a GGUF file, "hf:org/repo:Q4_K_M" or an address; what is
                not on this machine yet is fetched first. For a backend without files, its own name.
            config: How to load it.
            on_progress: Told how far the load is, in the event loop. Returning False cancels the load; what it raises
                cancels it, too, and is raised here.
            fetch: Whether to fetch a model that is not on this machine.
            pin: Whether the model stays in memory though it has nothing to do.

        Returns:
            A handle of the model.

        Raises:
            LocalLLMError: As `ModelManager.load`.
        """
        load = partial(self._sync.load, ref, config=config, fetch=fetch, pin=pin)
        return AsyncModel(await load_on_thread(lambda progress: load(on_progress=progress), on_progress))

    async def unload(self, model: AsyncModel | str | os.PathLike[str], *, force: bool = False) -> None:
        """Free a model's memory now; handles stay valid. See `ModelManager.unload`."""
        await to_thread(self._sync.unload, model.sync if isinstance(model, AsyncModel) else model, force=force)

    async def snapshot(self) -> ManagerSnapshot:
        """Return what there is to see of the models and downloads now. See `ModelManager.snapshot`."""
        return await to_thread(self._sync.snapshot)

    def subscribe(self, listener: Listener) -> AsyncSubscription:
        """Have `listener` told in the event loop what happens: first a snapshot, then every event, in order.

        It may be a coroutine function. What it raises is logged.

        Args:
            listener: Told; see `ManagerEvent`.

        Returns:
            What ends it: `close()`, a call of it, or leaving an `async with`. Closing the manager ends it, too.

        Raises:
            InvalidOptionError: The listener cannot be called.
            ClosedError: The manager is closed.
        """
        check_listener(listener)
        return AsyncSubscription(self._sync._source, listener)

    def watch(self) -> AsyncWatch:
        """Return what happens as an async iterator: first a snapshot, then every event, until the manager closes.

        Raises:
            ClosedError: The manager is closed.
        """
        return AsyncWatch(self._sync._source)

    @property
    def store(self) -> ModelStore:
        """Where models are found and kept."""
        return self._sync.store

    async def pull(
        self,
        ref: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> StoredModel:
        """Fetch a model, or find it already here. Cancelling the task cancels the download. See `ModelStore.pull`.

        Args:
            ref: The model.
            sha256: The file's checksum, if the caller knows it.
            on_progress: Told how far it is, on the thread that fetches.
            cancel: Cancels it, too.
        """
        cancel = cancel or Cancellation()
        pull = partial(self._sync.pull, ref, sha256=sha256, on_progress=on_progress, cancel=cancel)
        return await _cancellable(pull, cancel)

    async def list(self, *, others: bool = False) -> tuple[StoredModel, ...]:
        """Return the models that are on this machine. See `ModelStore.list`."""
        return await to_thread(self._sync.list, others=others)

    async def inspect(self, ref: str | os.PathLike[str]) -> ModelInfo:
        """Return what the header of a model on this machine says. See `ModelStore.inspect`."""
        return await to_thread(self._sync.inspect, ref)

    async def estimate(self, ref: str | os.PathLike[str], config: ModelConfig | None = None) -> MemoryEstimate:
        """Return how much memory a model on this machine will take. See `ModelManager.estimate`."""
        return await to_thread(self._sync.estimate, ref, config)

    async def verify(
        self,
        ref: str | os.PathLike[str],
        *,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> Verification:
        """Compare a model's files with their checksums. Cancelling the task ends it. See `ModelStore.verify`."""
        cancel = cancel or Cancellation()
        return await _cancellable(partial(self._sync.verify, ref, on_progress=on_progress, cancel=cancel), cancel)

    async def remove(self, ref: str | os.PathLike[str]) -> StoredModel:
        """Delete a model of the store. See `ModelStore.remove`."""
        return await to_thread(self._sync.remove, ref)

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return what there is to see of the processes that models run in; none for models in this process."""
        return await to_thread(self._sync.workers)

    async def close(self) -> None:
        """Close all models and the backend, and end running loads; waits for the models. May be called twice."""
        await to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _cancellable(work: Callable[[], T], cancel: Cancellation) -> T:
    """Do `work` on a thread; if the task is cancelled, cancel it and wait until it has let go of its files."""
    thread = asyncio.ensure_future(to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancel.cancel()
        await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # it was cancelled, and says so; asyncio would complain of an exception nobody saw
        raise

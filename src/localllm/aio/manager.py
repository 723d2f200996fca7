"""The async twin of `localllm.manager`: the same manager, asked on a thread."""

from __future__ import annotations

import os
from asyncio import to_thread
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from localllm.aio.loading import load_on_thread
from localllm.aio.model import AsyncModel
from localllm.backends.base import Backend, ProgressCallback
from localllm.backends.lookup import OnCrash
from localllm.manager import DEFAULT_TIMEOUTS, Isolation, ModelManager
from localllm.options import ModelConfig, Timeouts

if TYPE_CHECKING:  # loaded only where a model runs in a process of its own
    from localllm.backends.worker.info import WorkerInfo


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
    ) -> None:
        self._sync = ModelManager(
            backend,
            isolation=isolation,
            on_crash=on_crash,
            timeouts=timeouts,
            memory_limit_bytes=memory_limit_bytes,
            interpreter=interpreter,
        )

    async def load(
        self,
        ref: str | os.PathLike[str],
        *,
        config: ModelConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> AsyncModel:
        """Load a model. Cancelling the task cancels the load.

        Args:
            ref: An alias such as "smollm2-135m", or the path of a GGUF file. For a backend without files, its own name.
            config: How to load it.
            on_progress: Told how far the load is, in the event loop. Returning False cancels the load; what it raises
                cancels it, too, and is raised here.

        Returns:
            The model. Each load is one of its own.

        Raises:
            LocalLLMError: As `ModelManager.load`.
        """
        load = partial(self._sync.load, ref, config=config)
        return AsyncModel(await load_on_thread(lambda progress: load(on_progress=progress), on_progress))

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

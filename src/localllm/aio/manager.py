"""The async twin of `localllm.manager`: the same manager, asked on a thread."""

from __future__ import annotations

import os
from asyncio import to_thread
from functools import partial
from types import TracebackType
from typing import Self

from localllm.aio.loading import load_on_thread
from localllm.aio.model import AsyncModel
from localllm.backends.base import Backend, ProgressCallback
from localllm.manager import Isolation, ModelManager
from localllm.options import ModelConfig


class AsyncModelManager:
    """Loads models and closes them; an async context manager that closes it.

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
        self._sync = ModelManager(backend, isolation=isolation)

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

    async def close(self) -> None:
        """Close all models and the backend, and end running loads; waits for the models. May be called twice."""
        await to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

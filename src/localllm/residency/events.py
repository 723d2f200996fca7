"""What a user interface binds to: snapshots of a manager, and the events between them; all of them frozen values."""

from __future__ import annotations

from typing import Literal, TypeAlias

from attrs import frozen

from localllm.backends.base import LoadProgress
from localllm.errors import LocalLLMError
from localllm.models.info import ModelInfo
from localllm.models.progress import PullProgress

Residence: TypeAlias = Literal["loading", "ready", "busy", "unloading", "unloaded", "failed"]
"""Where a model is: "ready" and "busy" are in memory, without and with requests; "unloaded" comes back at its next use,
and so does "failed", whose last load went wrong."""

UnloadReason: TypeAlias = Literal["idle", "room", "asked", "closed"]
"""`keep_alive_s` has passed, another model needed the room, `unload` was called, or the last handle was closed."""


@frozen(kw_only=True)
class ModelState:
    """A model of a manager, as it was at one moment.

    Args:
        id: Its number in this manager; the same file loaded with another config has another one.
        ref: The reference that it was first loaded by.
        state: Where it is.
        requests: Requests under way, those that wait for it to come back included.
        memory_bytes: What it is reckoned to take while it is in memory: with a memory budget llama.cpp's estimate,
            else the size of its files, or what its worker process says if that is more. 0 if nobody knows.
        pinned: Whether it stays in memory while it has nothing to do.
        info: Its facts, once it was loaded.
        progress: How far its load is, while it is loading.
        error: Why its last load failed, if it did.
    """

    id: int
    ref: str
    state: Residence
    requests: int = 0
    memory_bytes: int = 0
    pinned: bool = False
    info: ModelInfo | None = None
    progress: LoadProgress | None = None
    error: LocalLLMError | None = None


@frozen(kw_only=True)
class DownloadState:
    """A download under way, as it was at one moment.

    Args:
        id: Its number in this manager.
        ref: What is fetched.
        progress: How far it is.
    """

    id: int
    ref: str
    progress: PullProgress


@frozen(kw_only=True)
class ManagerSnapshot:
    """All that there is to see of a manager at one moment; the first thing that a subscriber gets.

    Args:
        models: Its models, the oldest first: those that have an open handle, or are being loaded.
        downloads: Its downloads under way, the oldest first.
    """

    models: tuple[ModelState, ...] = ()
    downloads: tuple[DownloadState, ...] = ()


@frozen(kw_only=True)
class Downloading:
    """A download has begun, or goes on. Of these, a subscriber that is behind gets only the latest.

    Args:
        id: The download's number.
        ref: What is fetched.
        progress: How far it is.
    """

    id: int
    ref: str
    progress: PullProgress


@frozen(kw_only=True)
class Downloaded:
    """A download is whole.

    Args:
        id: The download's number.
        ref: What was fetched.
    """

    id: int
    ref: str


@frozen(kw_only=True)
class Loading:
    """A load has begun, or goes on. Of these, a subscriber that is behind gets only the latest.

    Args:
        id: The model's number.
        ref: The model.
        progress: How far it is; the phase "starting" comes first.
    """

    id: int
    ref: str
    progress: LoadProgress


@frozen(kw_only=True)
class Ready:
    """A model is in memory.

    Args:
        id: The model's number.
        ref: The model.
        info: Its facts, as loaded.
        memory_bytes: See `ModelState`.
    """

    id: int
    ref: str
    info: ModelInfo
    memory_bytes: int = 0


@frozen(kw_only=True)
class Busy:
    """A model that is in memory has a request, after it had none.

    Args:
        id: The model's number.
        ref: The model.
    """

    id: int
    ref: str


@frozen(kw_only=True)
class Idle:
    """The last request of a model has ended.

    Args:
        id: The model's number.
        ref: The model.
    """

    id: int
    ref: str


@frozen(kw_only=True)
class Unloading:
    """A model begins to leave the memory.

    Args:
        id: The model's number.
        ref: The model.
        reason: Why.
    """

    id: int
    ref: str
    reason: UnloadReason


@frozen(kw_only=True)
class Unloaded:
    """A model has left the memory, and comes back at its next use.

    Args:
        id: The model's number.
        ref: The model.
    """

    id: int
    ref: str


@frozen(kw_only=True)
class Failed:
    """A load or a download has failed, or was cancelled.

    Args:
        id: The number of the model or the download.
        ref: What was to be loaded or fetched.
        error: Why.
    """

    id: int
    ref: str
    error: LocalLLMError


@frozen(kw_only=True)
class WorkerRestarted:
    """The process of a model had crashed, and another one has loaded it.

    Args:
        id: The model's number.
        ref: The model.
    """

    id: int
    ref: str


@frozen(kw_only=True)
class Closed:
    """A model is gone: its last handle was closed, or nobody has one because its load has failed.

    Args:
        id: The model's number.
        ref: The model.
    """

    id: int
    ref: str


Numbered: TypeAlias = (
    Downloading | Downloaded | Loading | Ready | Busy | Idle | Unloading | Unloaded | Failed | WorkerRestarted | Closed
)
"""What happens to one model, or one download."""

ManagerEvent: TypeAlias = ManagerSnapshot | Numbered
"""What a subscriber gets: first a snapshot, then what happens after it."""

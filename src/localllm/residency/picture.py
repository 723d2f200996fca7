"""Events into snapshots: what a manager looks like after all that has happened. No threads, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, assert_never

from attrs import define, evolve, field, frozen

from localllm.residency.events import (
    Busy,
    Closed,
    Downloaded,
    Downloading,
    DownloadState,
    Failed,
    Idle,
    Loading,
    ManagerEvent,
    ManagerSnapshot,
    ModelState,
    Ready,
    Unloaded,
    Unloading,
    WorkerRestarted,
)


@frozen
class Begun:
    """A model has got a request.

    Args:
        id: The model's number.
        request: The request's.
    """

    id: int
    request: int


@frozen
class Ended:
    """A request has ended; nothing happens if that was noted before.

    Args:
        id: The model's number.
        request: The request's.
    """

    id: int
    request: int


@frozen
class Pinned:
    """A model is to stay in memory, or need not any more.

    Args:
        id: The model's number.
        pinned: Whether it is to stay.
    """

    id: int
    pinned: bool


Happening: TypeAlias = (
    Downloading
    | Downloaded
    | Loading
    | Ready
    | Unloading
    | Unloaded
    | Failed
    | WorkerRestarted
    | Closed
    | Begun
    | Ended
    | Pinned
)
"""What a manager notes. Busy and idle follow from the requests."""


@define
class _Entry:
    state: ModelState
    requests: set[int] = field(factory=set)


@define
class Picture:
    """A manager as it is now. Used by one thread at a time."""

    _models: dict[int, _Entry] = field(factory=dict, init=False)
    _downloads: dict[int, DownloadState] = field(factory=dict, init=False)

    def snapshot(self) -> ManagerSnapshot:
        """Return it as a value."""
        return ManagerSnapshot(
            models=tuple(evolve(entry.state, requests=len(entry.requests)) for entry in self._models.values()),
            downloads=tuple(self._downloads.values()),
        )

    def apply(self, item: Happening) -> tuple[ManagerEvent, ...]:
        """Take note of what has happened, and return what subscribers are told of it."""
        match item:
            case Downloading():
                self._downloads[item.id] = DownloadState(id=item.id, ref=item.ref, progress=item.progress)
            case Downloaded():
                self._downloads.pop(item.id, None)
            case Loading():
                self._load(item)
            case Failed():
                self._downloads.pop(item.id, None)
                self._change(item.id, lambda state: evolve(state, state="failed", error=item.error, progress=None))
            case Unloading():
                self._change(item.id, lambda state: evolve(state, state="unloading"))
            case Unloaded():
                self._change(item.id, lambda state: evolve(state, state="unloaded"))
            case Closed():
                self._models.pop(item.id, None)
            case WorkerRestarted():
                pass
            case Pinned():
                self._change(item.id, lambda state: evolve(state, pinned=item.pinned))
                return ()
            case Ready():
                return self._ready(item)
            case Begun() | Ended():
                return self._requests(item)
            case _:
                assert_never(item)
        return (item,)

    def _load(self, item: Loading) -> None:
        if item.id not in self._models:
            self._models[item.id] = _Entry(ModelState(id=item.id, ref=item.ref, state="loading"))
        self._change(item.id, lambda state: evolve(state, state="loading", progress=item.progress, error=None))

    def _ready(self, item: Ready) -> tuple[ManagerEvent, ...]:
        entry = self._models.get(item.id)
        if entry is None:
            return (item,)
        busy = bool(entry.requests)
        entry.state = evolve(
            entry.state,
            state="busy" if busy else "ready",
            progress=None,
            info=item.info,
            memory_bytes=item.memory_bytes,
        )
        return (item, Busy(id=item.id, ref=item.ref)) if busy else (item,)

    def _requests(self, item: Begun | Ended) -> tuple[ManagerEvent, ...]:
        entry = self._models.get(item.id)
        if entry is None:
            return ()
        if isinstance(item, Begun):
            entry.requests.add(item.request)
        else:
            entry.requests.discard(item.request)
        if entry.state.state == "ready" and entry.requests:
            entry.state = evolve(entry.state, state="busy")
            return (Busy(id=item.id, ref=entry.state.ref),)
        if entry.state.state == "busy" and not entry.requests:
            entry.state = evolve(entry.state, state="ready")
            return (Idle(id=item.id, ref=entry.state.ref),)
        return ()

    def _change(self, number: int, change: Callable[[ModelState], ModelState]) -> None:
        entry = self._models.get(number)
        if entry is not None:  # else it is a download, or closed already
            entry.state = change(entry.state)

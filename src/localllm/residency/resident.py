"""One model of a manager, in memory or not: it leaves when it may, and comes back at its next use.

States, all changes of them under the lock:

    loading     a thread of its own brings the model; requests stand in line
    ready       in memory; requests go straight to the backend
    unloading   some thread closes the backend's model; requests stand in line
    unloaded    the next use begins a load; so it does in
    failed      the last load has failed, and what stood in line with it

`closed` comes on top of them, for good. Ends of requests take no lock, as a finalizer may cause them: they take the
request out of a dict, which is atomic.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from localllm.backends.base import GenerateRequest, LoadedModel, LoadProgress, ModelSpec, ProgressCallback, Sink
from localllm.backends.clock import Clock
from localllm.engine.stats import ModelStats
from localllm.errors import ClosedError, LocalLLMError, ModelLoadError
from localllm.models.info import ModelInfo
from localllm.residency.board import Board
from localllm.residency.copies import own_copy
from localllm.residency.events import Closed, Failed, Loading, Ready, Unloaded, Unloading, UnloadReason, WorkerRestarted
from localllm.residency.figures import total
from localllm.residency.loading import LoadUnderWay, Waiter
from localllm.residency.picture import Pinned
from localllm.residency.ports import Handle, Owner
from localllm.residency.requests import Requests, expire
from localllm.residency.room import Occupant
from localllm.residency.ticket import Ticket, delivering

STARTING = LoadProgress("starting", 0.0)
"""The first progress of every load."""


class Resident:
    """A model with its requests. Safe to use from any thread; only `held`, `unload` and `close` block.

    Args:
        number: Its number in the manager.
        spec: What is loaded.
        bring: Loads it; blocks.
        reckon: Says how much memory it will take.
        owner: The table it is in.
        board: Where things are noted.
        clock: Tells the time.
    """

    def __init__(
        self,
        number: int,
        spec: ModelSpec,
        bring: Callable[[ProgressCallback], LoadedModel],
        reckon: Callable[[], int],
        owner: Owner,
        board: Board,
        clock: Clock,
    ) -> None:
        self.id = number
        self.spec = spec
        self.refs: set[str] = set()
        """All references by which it was loaded."""
        self.memory_bytes: int | None = None
        """What it is reckoned to take; None before the first load."""
        self.pinned = False
        self._bring = bring
        self._reckon = reckon
        self._owner = owner
        self._board = board
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows; nothing foreign is called under it
        self._state: Literal["loading", "ready", "unloading", "unloaded", "failed"] = "unloaded"
        self._closed = False
        self._loaded: LoadedModel | None = None
        self._load: LoadUnderWay | None = None
        self._loader: threading.Thread | None = None
        self._info: ModelInfo | None = None
        self._before = ModelStats()
        self.requests: Requests = Requests(number, board, clock, owner.idle)
        self._holds = 0
        self._granted = False
        self._freed = threading.Event()
        self._out = threading.Event()

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as last loaded."""
        return self._info or ModelInfo(name=self.spec.ref, path=self.spec.path)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def hopeless(self) -> bool:
        """Whether its first load has failed."""
        return self._state == "failed" and self._info is None

    def enter(self, on_progress: ProgressCallback | None) -> tuple[LoadUnderWay, Waiter] | None:
        """Begin to wait for the model, and its load if there is none under way; None if it is in memory.

        Raises:
            ClosedError: The model is closed.
        """
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if self._state == "ready":
                return None
            load = self._wanted()
            waiter = load.enter(on_progress)
            self._start_if_due()
            return load, waiter

    def generate(self, request: GenerateRequest, sink: Sink, lease: Handle) -> Ticket:
        """Begin to answer; returns at once. If the model is not in memory, that is once it is back.

        Raises:
            ClosedError: The model or the handle is closed.
        """
        ticket = Ticket(request, sink, lease, self.requests.ended, self._clock.now())
        with self._lock:
            self.check_open(lease)
            loaded = self._loaded if self._state == "ready" else None
            self.requests.add(ticket, in_line=loaded is None)
            if loaded is None:
                self._wanted()
                self._start_if_due()
        if loaded is None:
            if ticket.deadline_s < math.inf:
                self._owner.settled(deadline=True)
            return ticket
        try:
            ticket.send(loaded)
        except BaseException:
            self.requests.ended(ticket)
            raise
        return ticket

    @contextmanager
    def held(self, lease: Handle) -> Iterator[LoadedModel]:
        """Yield the backend's model, brought back if need be; it stays in memory within the block. See `Lease.held`."""
        loaded = self._hold(lease)
        try:
            yield loaded
        finally:
            with self._lock:
                self._holds -= 1
            self.requests.used()

    def stats(self) -> ModelStats:
        """Return the figures of all the times that it was in memory."""
        with self._lock:
            loaded, before, waiting = self._loaded, self._before, self.requests.waiting
        return total(before, ModelStats(waiting=waiting) if loaded is None else loaded.stats())

    def memory(self) -> int:
        """Return what it takes in memory, or would: what was reckoned, or what its backend says if that is more."""
        loaded = self._loaded
        return max(self.memory_bytes or 0, 0 if loaded is None else loaded.memory_bytes())

    def grant(self) -> None:
        """Know that there is room for the load under way."""
        self._granted = True

    def occupant(self) -> Occupant | None:
        """Return what it is to one that needs room; None if it takes none."""
        with self._lock:
            state, busy = self._state, self._busy
        if self._closed or state in ("unloaded", "failed") or (state == "loading" and not self._granted):
            return None
        in_use = "loading" if state == "loading" else ""
        if state == "ready" and (busy or self.pinned):
            in_use = "busy" if busy else "pinned"
        return Occupant(self.id, self.spec.ref, self.memory(), self.requests.last_used_s, in_use)

    def unload(self, reason: UnloadReason, *, force: bool = False) -> bool:
        """Free the memory, for now; waits until that is done, also by another thread.

        Args:
            reason: Why.
            force: Though it has requests, which then end as cancelled.

        Returns:
            False if it has something to do, or is being loaded.
        """
        match self.begin_unload(reason, force=force):
            case "busy":
                return False
            case "begun":
                self.finish_unload()
            case "out":
                if not delivering():  # else perhaps on a thread that the unload waits for
                    self._out.wait()
        return True

    def begin_unload(self, reason: UnloadReason, *, force: bool = False) -> Literal["begun", "out", "busy"]:
        """Take the model out of use, if it may be: "begun" means that `finish_unload` is to be called."""
        with self._lock:
            if self._closed or self._state in ("unloaded", "failed", "unloading"):
                return "out"
            if self._state == "loading" or (self._busy and not force):
                return "busy"
            self._state = "unloading"
            self._out.clear()
            self._board.post(Unloading(id=self.id, ref=self.spec.ref, reason=reason))
            return "begun"

    def finish_unload(self) -> None:
        """Free the memory; blocks. Requests under way end as cancelled, and what stands in line by then comes back."""
        loaded = self._loaded
        try:
            if loaded is not None:
                loaded.close()
        finally:
            self._let_go(loaded)
            with self._lock:
                self._state = "unloaded"
                if not self._closed:
                    self._board.post(Unloaded(id=self.id, ref=self.spec.ref))
                self._start_if_due()
            self._out.set()

    def due(self, now_s: float, keep_alive_s: float | None) -> float | None:
        """End what has waited too long, and return when to look again; math.inf after the next call of `idle`.

        None means that there is nothing to look after, -math.inf that the model has been idle for long enough.
        """
        with self._lock:
            line, state, busy = self.requests.line(), self._state, self._busy
        next_s = expire(line, now_s)
        if next_s < math.inf:
            return next_s
        if keep_alive_s is None or state != "ready" or self.pinned or self._closed:
            return None
        if busy:
            return math.inf
        until_s = self.requests.last_used_s + keep_alive_s
        return until_s if until_s > now_s else -math.inf

    def close(self) -> None:
        """End requests as cancelled and free the memory, for good; waits, also for another thread's close.

        A load under way is told to end, and not waited for: see `join`.
        """
        with self._lock:
            first, self._closed = not self._closed, True
            load, loaded, loading = self._load, self._loaded, self._state == "loading"
            line = self.requests.take_line()
            if first and loaded is not None:
                self._board.post(Unloading(id=self.id, ref=self.spec.ref, reason="closed"))
        if load is not None:
            load.stop()
            if not loading:  # it has not begun, and never will
                load.end(self._closed_error())
        for ticket in line:
            ticket.end("cancelled")
        if first:
            try:
                if loaded is not None:
                    loaded.close()
            finally:
                self._let_go(loaded)
                self._board.post(Closed(id=self.id, ref=self.spec.ref))
                self._out.set()
                self._freed.set()
        elif not delivering():
            self._freed.wait()
        elif loaded is not None:
            loaded.close()  # on a thread that the first close may wait for; backends know theirs

    def join(self, *, first_load: bool = True) -> None:
        """Wait for the load under way, if there is one.

        Args:
            first_load: Also if it is the first one, for which its caller waits.
        """
        with self._lock:
            load, loader = self._load, self._loader
        if load is not None and loader is not threading.current_thread() and (first_load or self._info is not None):
            load.join()

    def check_open(self, lease: Handle) -> None:
        """Raise ClosedError if the model or the handle is closed."""
        if self._closed or lease.closed:
            raise self._closed_error()

    def _let_go(self, loaded: LoadedModel | None) -> None:
        """Keep the figures of a model that was closed, and nothing else of it."""
        figures = ModelStats() if loaded is None else loaded.stats()
        with self._lock:
            if loaded is not None and self._loaded is loaded:
                self._before, self._loaded = total(self._before, figures), None

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"the model {self.info.name!r} is closed; load it again with ModelManager.load")

    def _hold(self, lease: Handle) -> LoadedModel:
        while True:
            with self._lock:
                self.check_open(lease)
                if self._state == "ready" and self._loaded is not None:
                    self._holds += 1
                    return self._loaded
                load = self._wanted()
                waiter = load.enter()
                self._start_if_due()
            try:
                load.wait(waiter)
            except LocalLLMError:
                self.check_open(lease)
                raise

    @property
    def _busy(self) -> bool:
        return self.requests.busy or self._holds > 0

    def _wanted(self) -> LoadUnderWay:
        """Return the load under way, or the next one; the lock is held."""
        if self._load is None:
            self._load = LoadUnderWay(self.spec.ref, wanted=self._info is not None)
        return self._load

    def _start_if_due(self) -> None:
        """Start the load that is wanted, unless the model is still on its way out; the lock is held."""
        load = self._load
        if load is None or self._closed or self._state in ("loading", "unloading"):
            return
        self._state = "loading"
        self._board.post(Loading(id=self.id, ref=self.spec.ref, progress=STARTING))
        self._board.post(Pinned(self.id, self.pinned))
        self._loader = threading.Thread(target=self._run, args=(load,), name="localllm-load", daemon=True)
        self._loader.start()

    # What follows runs on the loader's thread.

    def _run(self, load: LoadUnderWay) -> None:
        def tell(progress: LoadProgress) -> bool:
            self._board.post(Loading(id=self.id, ref=self.spec.ref, progress=progress))
            return load.tell(progress)

        try:
            if self.memory_bytes is None:
                self.memory_bytes = self._reckon()
            self._owner.make_room(self, self.memory_bytes)
            loaded = self._bring(tell)
            info = loaded.info
            loaded.on_restart(lambda: self._board.post(WorkerRestarted(id=self.id, ref=self.spec.ref)))
        except LocalLLMError as exc:
            self._failed(load, exc)
        except BaseException as exc:  # noqa: BLE001  # there is nobody above this to see it
            error = ModelLoadError(f"loading {self.spec.ref!r} failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            self._failed(load, error)
        else:
            self._came(load, loaded, info)

    def _came(self, load: LoadUnderWay, loaded: LoadedModel, info: ModelInfo) -> None:
        self.requests.used()
        with self._lock:
            self._info = info
            if not self._closed:
                self._board.post(Ready(id=self.id, ref=self.spec.ref, info=info, memory_bytes=self.memory_bytes or 0))
        while True:
            with self._lock:
                self._granted = False
                closed = self._closed
                if closed:
                    break
                ticket = self.requests.next_in_line()
                if ticket is None:  # whoever comes from here on goes straight to the model
                    self._loaded, self._load, self._state = loaded, None, "ready"
                    break
            ticket.send_late(loaded, self._clock.now())
        if closed:
            loaded.close()
        self._owner.settled()
        # Last of all: whoever waits may fork(), and a lock that this thread held then would stay locked in the child.
        load.end(self._closed_error() if closed else None)

    def _failed(self, load: LoadUnderWay, error: LocalLLMError) -> None:
        with self._lock:
            line = self.requests.take_line()
            self._load, self._state, self._granted = None, "failed", False
            if not self._closed:
                self._board.post(Failed(id=self.id, ref=self.spec.ref, error=error))
        if self._info is None:
            self._owner.never_came(self)
        for ticket in line:
            ticket.end("error", own_copy(error))
        load.end(error)

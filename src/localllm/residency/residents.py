"""All models of a manager: who shares which, which go when room or time asks for it, and which come back."""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections.abc import Callable, Hashable
from contextlib import ExitStack, suppress
from typing import TypeAlias

from localllm.backends.base import LoadedModel, LoadProgress, ModelSpec, ProgressCallback
from localllm.backends.clock import Clock
from localllm.errors import ClosedError, InvalidOptionError, ModelBusyError
from localllm.residency.board import Board
from localllm.residency.keeper import Keeper
from localllm.residency.lease import Lease
from localllm.residency.loading import LoadUnderWay, Waiter, refused
from localllm.residency.picture import Pinned
from localllm.residency.resident import Resident
from localllm.residency.room import Occupant, to_unload

Bring: TypeAlias = Callable[[ProgressCallback], LoadedModel]
"""Loads a model; blocks."""

_log = logging.getLogger("localllm.manager")


class Residents:
    """The table of models. Safe to use from any thread.

    Args:
        board: Where things are noted.
        clock: Tells when models were used.
        numbers: Numbers for models.
        memory_budget_bytes: What models may take together; None is no limit.
        keep_alive_s: How long a model stays without being used; None is for ever.
    """

    def __init__(
        self,
        *,
        board: Board,
        clock: Clock,
        numbers: itertools.count[int],
        memory_budget_bytes: int | None = None,
        keep_alive_s: float | None = None,
    ) -> None:
        self._board = board
        self._clock = clock
        self._numbers = numbers
        self._budget_bytes = memory_budget_bytes
        self._keep_alive_s = keep_alive_s
        self._keeper = Keeper(clock, self._look)
        self._making_room = threading.Lock()  # held while models leave, so that two newcomers do not count on one room
        self._lock = threading.Lock()  # guards what follows; not held while anything waits
        self._table: dict[Hashable, Resident] = {}
        self._leases: dict[Resident, list[Lease]] = {}  # also of models that are being closed
        self._closed = False

    def lease(
        self,
        key: Hashable,
        spec: ModelSpec,
        on_progress: ProgressCallback | None,
        *,
        bring: Bring,
        reckon: Callable[[], int],
        pin: bool = False,
    ) -> Lease:
        """Return a share in a model, loaded now unless it is there; waits until it is in memory.

        Args:
            key: What it is known by.
            spec: What it is.
            on_progress: Told how far the load is, on this thread. Returning False ends the wait.
            bring: Loads it; blocks.
            reckon: Says how much memory it will take.
            pin: Whether it is to stay in memory.

        Raises:
            LoadCancelledError: `on_progress` returned False.
            LocalLLMError: It cannot be loaded.
            ClosedError: The table is closed.
            BaseException: What `on_progress` raised, or Ctrl-C.
        """
        with self._lock:
            lease = self._share(
                (os.getpid(), key),  # a process made by fork() has none of its parent's models
                spec.ref,
                lambda: Resident(next(self._numbers), spec, bring, reckon, self, self._board, self._clock),
            )
            if pin:
                lease.pinned = True
                self._pinned(lease.resident)
            waiting = lease.resident.enter(on_progress)  # under the lock: who shares a load also shares its failure
        try:
            _wait(spec.ref, waiting, on_progress)
        except BaseException as exc:
            lease.close()
            if isinstance(exc, Exception):  # who was interrupted does not wait any more
                with self._lock:
                    last = lease.resident not in self._leases
                if last:
                    lease.resident.join()
            raise
        return lease

    def release(self, lease: Lease) -> None:
        """Forget a handle, and close its model if it was the last one; waits for that."""
        resident = lease.resident
        with self._lock:
            leases = self._leases.get(resident, [])
            with suppress(ValueError):
                leases.remove(lease)
            last = not leases
            if last:
                self._remove(resident)
        if not last:
            if lease.pinned:
                self.pin(lease, False)
            resident.requests.cancel_of(lease)
            return
        try:
            resident.close()
        finally:
            with self._lock:
                self._leases.pop(resident, None)

    def pin(self, lease: Lease, pinned: bool) -> None:
        """Note whether a handle wants its model to stay in memory."""
        with self._lock:
            lease.pinned = pinned
            self._pinned(lease.resident)
        self.settled()

    def find(self, wanted: Callable[[Resident], bool]) -> tuple[Resident, ...]:
        """Return the models that are wanted."""
        with self._lock:
            return tuple(resident for resident in self._leases if wanted(resident))

    def unload(self, resident: Resident, *, force: bool = False) -> None:
        """Free a model's memory now; it comes back at its next use.

        Args:
            resident: The model.
            force: Also if it has requests, which then end as cancelled.

        Raises:
            ModelBusyError: It has requests, or is being loaded.
        """
        if not resident.unload("asked", force=force):
            raise ModelBusyError(
                f"{resident.spec.ref!r} has something to do, or is being loaded: wait for its replies to end, or "
                "cancel them with force=True; a load is ended by closing its handles"
            )

    def memory(self) -> dict[int, int]:
        """Return what each model takes in memory, or would, by its number."""
        return {resident.id: resident.memory() for resident in self.find(lambda resident: True)}

    def close(self, also: Callable[[], object] | None = None) -> None:
        """Close all models, ending their loads; waits for the models, and not for loads that somebody waits for.

        Args:
            also: Called once the models are closed: frees what they ran in.
        """
        with self._lock:
            self._closed = True
            residents = [*self._leases]
            self._table.clear()
        with ExitStack() as closing:  # one that fails does not keep the others open; the last one first
            closing.callback(self._keeper.ring)
            for resident in residents:
                closing.callback(resident.join, first_load=False)
            if also is not None:
                closing.callback(also)
            for resident in residents:
                closing.callback(resident.close)

    # What follows is for residents and the keeper.

    def make_room(self, newcomer: Resident, needed_bytes: int) -> None:
        """Unload what has to go for a model, and let it in.

        Raises:
            InsufficientMemoryError: There is no room for it; nothing was unloaded.
        """
        if self._budget_bytes is None:
            return
        with self._making_room:
            while True:
                others = self.find(lambda other: other is not newcomer)
                occupants: dict[int, tuple[Resident, Occupant]] = {}
                for other in others:
                    if (occupant := other.occupant()) is not None:
                        occupants[other.id] = (other, occupant)
                present = [occupant for _, occupant in occupants.values()]
                leaving = to_unload(present, needed_bytes, self._budget_bytes, newcomer.spec.ref)
                if not leaving:
                    newcomer.grant()
                    return
                for number in leaving:  # one that has just become busy stays, and the next look finds another
                    occupants[number][0].unload("room")

    def never_came(self, resident: Resident) -> None:
        """Let nobody find a model whose first load has failed."""
        with self._lock:
            self._remove(resident)

    def settled(self, *, deadline: bool = False) -> None:
        """Look whether something will become due; `deadline`: the time of a request may run out."""
        if not self._closed and (deadline or self._keep_alive_s is not None):
            self._keeper.start()

    def idle(self) -> None:
        """Look again whether something is due, if anybody looks; takes no lock."""
        self._keeper.ring()

    def _share(self, key: Hashable, ref: str, make: Callable[[], Resident]) -> Lease:
        """Return a share in the model of this key, which is made if there is none; the lock is held."""
        if self._closed:
            raise ClosedError("this ModelManager is closed; make a new one")
        resident = self._table.get(key)
        if resident is None or resident.hopeless:
            resident = self._table[key] = make()
        resident.refs.add(ref)
        lease = Lease(resident, self)
        self._leases.setdefault(resident, []).append(lease)
        return lease

    def _pinned(self, resident: Resident) -> None:
        """Note whether one of its handles wants a model to stay; the lock is held."""
        resident.pinned = any(lease.pinned for lease in self._leases.get(resident, ()))
        self._board.post(Pinned(resident.id, resident.pinned))

    def _remove(self, resident: Resident) -> None:
        """Take a model off the table; the lock is held."""
        self._table = {key: other for key, other in self._table.items() if other is not resident}

    def _look(self, now_s: float) -> float | None:
        """Do what is due; see `Keeper`."""
        until_s: float | None = None
        for resident in self.find(lambda resident: True):
            next_s = resident.due(now_s, self._keep_alive_s)
            if next_s == -math.inf:
                if resident.begin_unload("idle") == "begun":  # on another thread: closing takes its time
                    threading.Thread(target=_finish, args=(resident,), name="localllm-unload", daemon=True).start()
                next_s = None
            if next_s is not None:
                until_s = next_s if until_s is None else min(until_s, next_s)
        return until_s


def _wait(ref: str, waiting: tuple[LoadUnderWay, Waiter] | None, on_progress: ProgressCallback | None) -> None:
    """Wait until a model is in memory; of one that is there already the end of its load is told."""
    if waiting is not None:
        load, waiter = waiting
        load.wait(waiter)
    elif on_progress is not None and on_progress(LoadProgress("loading", 1.0)) is False:
        raise refused(ref)


def _finish(resident: Resident) -> None:
    try:
        resident.finish_unload()
    except Exception:  # noqa: BLE001  # nobody waits for it
        _log.exception("%r failed to close when it was unloaded", resident.spec.ref)


def check_limits(memory_budget_bytes: object, keep_alive_s: object) -> None:
    """Raise InvalidOptionError if a manager cannot go by these."""
    budget = memory_budget_bytes
    if budget is not None and (not isinstance(budget, int) or isinstance(budget, bool) or budget <= 0):
        raise InvalidOptionError(f"memory_budget_bytes must be a number of bytes, or None; got {budget!r:.80}")
    if keep_alive_s is None:
        return
    if not isinstance(keep_alive_s, (int, float)) or isinstance(keep_alive_s, bool) or not 0 <= keep_alive_s < math.inf:
        raise InvalidOptionError(f"keep_alive_s must be a number of seconds from 0, or None; got {keep_alive_s!r:.80}")

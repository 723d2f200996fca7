"""A handle's share in a model: what it asks for is its own, and the model stays as long as anybody has one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from localllm.backends.base import GenerateRequest, LoadedModel, Sink
from localllm.engine.stats import ModelStats
from localllm.models.info import ModelInfo
from localllm.residency.later import start_soon
from localllm.residency.ports import Table
from localllm.residency.resident import Resident
from localllm.residency.ticket import Ticket

_log = logging.getLogger("localllm.manager")


class Lease:
    """A handle's share in a model; made by `Residents.lease`.

    Args:
        resident: The model.
        table: The table that it is in.
    """

    def __init__(self, resident: Resident, table: Table) -> None:
        self.resident = resident
        self._table = table
        self._closed = False
        self.pinned = False
        """Whether this handle wants the model to stay in memory; set by `pin`."""

    @property
    def closed(self) -> bool:
        """Whether the handle is closed."""
        return self._closed

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as last loaded."""
        return self.resident.info

    def generate(self, request: GenerateRequest, sink: Sink) -> Ticket:
        """Begin to answer; returns at once, also if the model has to be brought back first.

        Raises:
            ClosedError: The model or the handle is closed.
        """
        return self.resident.generate(request, sink, self)

    @contextmanager
    def held(self) -> Iterator[LoadedModel]:
        """Yield the backend's model; it is brought back if need be, and stays in memory within the block.

        Raises:
            ClosedError: The model or the handle is closed.
            LocalLLMError: It cannot be loaded.
        """
        with self.resident.held(self) as loaded:
            yield loaded

    def stats(self) -> ModelStats:
        """Return the model's figures; still answers after `close`."""
        return self.resident.stats()

    def check_open(self) -> None:
        """Raise ClosedError if the model or the handle is closed."""
        self.resident.check_open(self)

    def pin(self, pinned: bool) -> None:
        """Have the model stay in memory while it has nothing to do, or not any more."""
        self._table.pin(self, pinned)

    def close(self) -> None:
        """End this handle's requests as cancelled; the last handle's close frees the model and waits for that."""
        self._closed = True
        self._table.release(self)

    def drop(self) -> None:
        """Close it soon, for a finalizer: returns at once and takes no lock."""
        if not self._closed:
            start_soon(self._close_alone)

    def _close_alone(self) -> None:
        try:
            self.close()
        except Exception:  # noqa: BLE001  # nobody waits for it
            _log.exception("%r failed to close after its last handle was dropped", self.resident.spec.ref)

"""What the parts of this package need of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from localllm.residency.lease import Lease
    from localllm.residency.resident import Resident


class Handle(Protocol):
    """A handle's share in a model, as far as the model cares."""

    @property
    def closed(self) -> bool:
        """Whether the handle is closed."""


class Owner(Protocol):
    """The table of models, as far as a model cares. All of it may be called from any thread."""

    def make_room(self, newcomer: Resident, needed_bytes: int) -> None:
        """Unload what has to go for the model, and let it in; blocks."""

    def never_came(self, resident: Resident) -> None:
        """The first load has failed: nobody is to find this model any more."""

    def settled(self, *, deadline: bool = False) -> None:
        """Something may become due; `deadline`: the time of a request in line."""

    def idle(self) -> None:
        """The last request of a model has ended; takes no lock."""


class Table(Protocol):
    """The table of models, as far as a handle cares."""

    def release(self, lease: Lease) -> None:
        """Forget a handle, and close its model if it was the last one."""

    def pin(self, lease: Lease, pinned: bool) -> None:
        """Note whether a handle wants its model to stay in memory."""

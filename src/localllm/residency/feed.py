"""Events on their way to one subscriber: in order, and bounded however slow it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import define, field

from localllm.residency.events import Busy, Downloading, Idle, Loading, ManagerEvent, ManagerSnapshot, Numbered

LIMIT = 1000
"""Events that may wait before a pair of busy and idle that nobody has seen is left out. (A guess: enough to see every
reply of a minute, and some hundred kilobytes at most.)"""


@define(eq=False)
class _Cell:
    event: ManagerEvent


@define(eq=False)
class Feed:
    """What one subscriber has not seen yet. Guarded by its board's lock.

    Of the progress of one load or download only the latest waits. All else is kept; only if a subscriber is very far
    behind, a Busy and the Idle after it cancel out, so that one which never comes back does not fill the memory.

    Args:
        wake: Called when there is something; takes no lock.
    """

    _wake: Callable[[], object]
    _cells: deque[_Cell] = field(factory=deque, init=False)
    _last: dict[int, _Cell] = field(factory=dict, init=False)
    ended: bool = field(default=False, init=False)
    """Whether nothing more will come."""

    def put(self, event: ManagerEvent) -> None:
        """Add an event."""
        if isinstance(event, ManagerSnapshot):
            self._cells.append(_Cell(event))
        elif not self._merged(event):
            cell = self._last[event.id] = _Cell(event)
            self._cells.append(cell)
        self._wake()

    def take(self) -> ManagerEvent | None:
        """Return the next event, if there is one."""
        if not self._cells:
            return None
        cell = self._cells.popleft()
        if not isinstance(cell.event, ManagerSnapshot) and self._last.get(cell.event.id) is cell:
            del self._last[cell.event.id]
        return cell.event

    def end(self) -> None:
        """Know that nothing more will come."""
        self.ended = True
        self._wake()

    def _merged(self, event: Numbered) -> bool:
        before = self._last.get(event.id)
        if before is None:
            return False
        match before.event, event:
            case (Loading(), Loading()) | (Downloading(), Downloading()):
                before.event = event
                return True
            case (Busy(), Idle()) | (Idle(), Busy()) if len(self._cells) > LIMIT:
                self._cells.remove(before)
                del self._last[event.id]
                return True
        return False

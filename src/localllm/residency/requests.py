"""The requests of one model: all that are under way, and in line those that wait for it to come back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from localllm.backends.clock import Clock
from localllm.residency.board import Board
from localllm.residency.picture import Begun, Ended
from localllm.residency.ticket import Ticket


class Requests:
    """The requests of a model. Guarded by its lock, but for `ended`, `used`, `busy` and `cancel_of`.

    Args:
        number: The model's number.
        board: Where beginnings and ends are noted.
        clock: Tells when the model was used.
        on_idle: Called when the last one has ended; takes no lock.
    """

    def __init__(self, number: int, board: Board, clock: Clock, on_idle: Callable[[], None]) -> None:
        self._id = number
        self._board = board
        self._clock = clock
        self._on_idle = on_idle
        self._active: dict[int, Ticket] = {}  # those in line, too
        self._line: deque[Ticket] = deque()
        self.last_used_s: float = clock.now()

    @property
    def busy(self) -> bool:
        """Whether there are any."""
        return bool(self._active)

    @property
    def waiting(self) -> int:
        """How many wait for the model."""
        return sum(ticket.number in self._active for ticket in self._line)

    def add(self, ticket: Ticket, *, in_line: bool) -> None:
        """Take note of one that begins."""
        self._active[ticket.number] = ticket
        self._board.post(Begun(self._id, ticket.number))
        if in_line:
            self._line.append(ticket)

    def ended(self, ticket: Ticket) -> None:
        """Take note that one has ended; from any thread, a finalizer too: what it does is atomic, and takes no lock."""
        if self._active.pop(ticket.number, None) is not None:
            self._board.post(Ended(self._id, ticket.number))
            self.used()

    def used(self) -> None:
        """Take note that the model was used."""
        self.last_used_s = self._clock.now()
        if not self._active:
            self._on_idle()

    def cancel_of(self, lease: object) -> None:
        """Cancel those of one handle."""
        for ticket in list(self._active.values()):
            if ticket.lease is lease:
                ticket.cancel()

    def next_in_line(self) -> Ticket | None:
        """Take the first one out of the line, if there is one."""
        return self._line.popleft() if self._line else None

    def take_line(self) -> list[Ticket]:
        """Take all out of the line."""
        line = list(self._line)
        self._line.clear()
        return line

    def line(self) -> list[Ticket]:
        """Return who stands in line, some of whom may have ended."""
        return list(self._line)


def expire(line: list[Ticket], now_s: float) -> float:
    """End what has waited too long, and return when the next one will have.

    Args:
        line: Who stands in line.
        now_s: The time.

    Returns:
        The time, math.inf if none will have.
    """
    next_s = math.inf
    for ticket in line:
        if ticket.deadline_s <= now_s:
            ticket.end("timeout")
        else:
            next_s = min(next_s, ticket.deadline_s)
    return next_s

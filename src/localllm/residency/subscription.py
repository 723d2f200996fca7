"""A listener on a thread of its own, and the plain iterator: the two ways to watch without asyncio."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

from localllm.backends.clock import Bell
from localllm.errors import InvalidOptionError
from localllm.pump import PENDING, Pending, ThreadPump
from localllm.residency.board import Board
from localllm.residency.events import ManagerEvent
from localllm.residency.feed import Feed

Listener: TypeAlias = Callable[[ManagerEvent], object]
"""Told a snapshot first, then each event; what it returns is ignored."""

Open: TypeAlias = "Callable[[Callable[[], object]], Source]"
"""Makes a source, given what to call when there is something in it; that takes no lock. ClosedError if it is late."""

_log = logging.getLogger("localllm.manager")


class Source:
    """A feed and the board that fills it, which it does not keep alive.

    Args:
        feed: The subscriber's.
        board: Whose it is.
    """

    __slots__ = ("_board", "feed")

    def __init__(self, feed: Feed, board: Board) -> None:
        self.feed: Feed = feed
        self._board = weakref.ref(board)

    def step(self) -> ManagerEvent | Literal[Pending.PENDING] | None:
        """Return the next event, PENDING if there is none now, or None if there will be no more."""
        ended = self.feed.ended  # before the look: what comes before the end is told
        board = self._board()
        # Without a board nobody else is left to touch the feed.
        event = self.feed.take() if board is None else board.take(self.feed)
        if event is not None:
            return event
        return None if ended or board is None else PENDING


class Subscription:
    """A listener that is told what happens, until it is closed: by `close`, by calling it, or by leaving a `with`.

    Its thread is its own: a listener may take its time and ask the manager anything. What it raises is logged.

    Args:
        source: Makes where the events come from.
        listener: Who is told.

    Raises:
        ClosedError: The manager is closed.
    """

    def __init__(self, source: Open, listener: Listener) -> None:
        self._bell = Bell()
        self._listener: Listener | None = listener
        self._source = source(self._bell.ring)
        threading.Thread(target=self._run, name="localllm-watch", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Whether the listener is told nothing more."""
        return self._listener is None

    def close(self) -> None:
        """Tell the listener nothing more; does not wait for a call of it that is under way. May be called twice."""
        self._listener = None
        self._source.feed.end()

    def __call__(self) -> None:
        """Close it."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while (event := self._source.step()) is not None:
            if event is PENDING:
                self._bell.wait()
                continue
            listener = self._listener
            if listener is None:
                return
            try:
                listener(event)
            except Exception:  # noqa: BLE001  # a user's own code, which is not to end the thread
                _log.exception("a listener of a ModelManager failed at %.200r", event)
        self._listener = None


class Watch:
    """What happens in a manager, as an iterator that waits: a snapshot first, the end when the manager is closed.

    For one thread at a time; `close` may come from another. Leaving a `with` closes it.

    Args:
        source: Makes where the events come from.

    Raises:
        ClosedError: The manager is closed.
    """

    def __init__(self, source: Open) -> None:
        self._pump = ThreadPump()
        self._closed = False
        self._source = source(self._pump.wake)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ManagerEvent:
        """Wait for the next event.

        Raises:
            StopIteration: There are no more.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        event = self._pump.run(self._step)
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Give no more events. May be called twice."""
        self._closed = True
        self._source.feed.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        source = getattr(self, "_source", None)  # there is none if the manager was closed
        if isinstance(source, Source):
            source.feed.end()

    def _step(self) -> ManagerEvent | Literal[Pending.PENDING] | None:
        return None if self._closed else self._source.step()


def check_listener(listener: object) -> None:
    """Raise InvalidOptionError unless it can be called."""
    if not callable(listener):
        raise InvalidOptionError(f"listener must be a function of one event; got {listener!r:.80}")

"""Where everything that happens in a manager is noted, from any thread, and passed on in one order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from localllm.errors import ClosedError
from localllm.residency.events import ManagerEvent, ManagerSnapshot
from localllm.residency.feed import Feed
from localllm.residency.picture import Happening, Picture

T = TypeVar("T")


class Board:
    """Notes what happens and keeps the picture and the subscribers' feeds; no thread of its own.

    `post` may be called from a finalizer, so it waits for no lock: who finds the lock taken leaves the work to its
    holder, who looks once more after it has let go of it.
    """

    def __init__(self) -> None:
        self._inbox: deque[Happening] = deque()
        self._lock = Lock()  # guards what follows; nothing foreign is called under it
        self._picture = Picture()
        self._feeds: list[Feed] = []
        self._ended = False

    def post(self, item: Happening) -> None:
        """Note what has happened; returns at once, takes no lock that it would have to wait for."""
        self._inbox.append(item)
        self._settle()

    def snapshot(self) -> ManagerSnapshot:
        """Return what there is to see now, everything posted before included."""
        return self._locked(self._picture.snapshot)

    def subscribe(self, wake: Callable[[], object], adorn: Callable[[ManagerSnapshot], ManagerSnapshot]) -> Feed:
        """Return a feed of a snapshot and all that happens after it.

        Args:
            wake: Called when there is something to take; takes no lock.
            adorn: Adds to the snapshot what is not noted here.

        Raises:
            ClosedError: There will be no more.
        """
        feed = Feed(wake)

        def begin() -> None:
            if self._ended:
                raise ClosedError("this ModelManager is closed; make a new one")
            feed.put(adorn(self._picture.snapshot()))
            self._feeds.append(feed)

        self._locked(begin)
        return feed

    def take(self, feed: Feed) -> ManagerEvent | None:
        """Return what a subscriber has not seen yet, one at a time; None if there is nothing now."""
        return self._locked(feed.take)

    def end(self) -> None:
        """Tell subscribers that nothing more will come, once they have taken what there is."""

        def end() -> None:
            self._ended = True
            for feed in self._feeds:
                feed.end()
            self._feeds = []

        self._locked(end)

    def __del__(self) -> None:
        for feed in self._feeds:
            feed.end()

    def _locked(self, action: Callable[[], T]) -> T:
        try:
            with self._lock:
                self._pass_on()
                return action()
        finally:
            self._settle()

    def _settle(self) -> None:
        while self._inbox and self._lock.acquire(blocking=False):
            try:
                self._pass_on()
            finally:
                self._lock.release()

    def _pass_on(self) -> None:
        """Bring the picture and the feeds up to date; the lock is held."""
        self._feeds = [feed for feed in self._feeds if not feed.ended]
        while self._inbox:
            # Taken off afterwards: if Ctrl-C comes in between, it is noted twice, which does no harm, and not lost.
            for event in self._picture.apply(self._inbox[0]):
                for feed in self._feeds:
                    feed.put(event)
            self._inbox.popleft()

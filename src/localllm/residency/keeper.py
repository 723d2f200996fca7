"""A thread that does what becomes due, there only while something will."""

from __future__ import annotations

import threading
from collections.abc import Callable

from localllm.backends.clock import Bell, Clock


class Keeper:
    """Calls `look` whenever something may be due.

    Args:
        clock: Tells the time, and waits.
        look: Does what is due at a time, and returns when to look again: math.inf after the next ring, None if there
            is nothing left to look after. Must not block.
    """

    def __init__(self, clock: Clock, look: Callable[[float], float | None]) -> None:
        self._clock = clock
        self._look = look
        self._bell = Bell()
        self._lock = threading.Lock()  # held while looking, so that a thread never ends unseen
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look again now, with a thread if there is none."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="localllm-keeper", daemon=True)
                self._thread.start()
        self._bell.ring()

    def ring(self) -> None:
        """Look again now, if there is a thread; takes no lock."""
        if self._thread is not None:
            self._bell.ring()

    def _run(self) -> None:
        while True:
            with self._lock:
                until_s = self._look(self._clock.now())
                if until_s is None:
                    self._thread = None
                    return
            self._clock.wait(self._bell, until_s)

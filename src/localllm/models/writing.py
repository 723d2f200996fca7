"""Writing a file while it comes, on a thread of its own, and past the page cache where that is what holds it up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

BLOCK_BYTES = 4096
"""What goes past the page cache begins at a multiple of this, in the file and in memory, and is one long."""

_FAST = 200e6
"""Bytes a second from which on it goes past the page cache. Filling that costs a processor up to 2.5 s for a GiB (in a
guest of a virtual machine), which is more than all the rest; but a file that is there need not be read when it is used
next, and what comes from a network rarely comes so fast. A guess between the two."""

_SYNC_BYTES = 64 * 1024 * 1024  # written to the page cache before they are brought to the disk


class FileWriter:
    """Writes what it is given to a file, in order; a context manager, at whose end all of it is written.

    Args:
        path: The file, which exists.
        start: Where in it the first byte goes.
        now: The clock, in seconds.
        tried_bytes: Bytes before the rate is trusted.

    Raises:
        OSError: At the end: it could not all be written; perhaps some of it was.
    """

    def __init__(
        self, path: Path, start: int, *, now: Callable[[], float] = time.monotonic, tried_bytes: int = 16 << 20
    ) -> None:
        self._at = self._start = start
        self._now = now
        self._tried_bytes = tried_bytes
        self._start_s = now()
        self._queue: SimpleQueue[tuple[memoryview, Callable[[], None]] | None] = SimpleQueue()
        self._failure: OSError | None = None
        self._cached_fd = os.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self._direct_fd = _open_direct(path)
        self._unsynced_bytes = 0
        self._syncing = ThreadPoolExecutor(1, "localllm-fsync")
        self._synced: Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="localllm-write")
        self.direct_bytes: int = 0
        """Bytes that went past the page cache."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._syncing.shutdown()
        for fd in (self._cached_fd, self._direct_fd):
            if fd is not None:
                os.close(fd)
        if self._failure is not None:
            raise self._failure
        if self._synced is not None:
            self._synced.result()

    def put(self, data: memoryview, then: Callable[[], None]) -> None:
        """Write `data` later, and call `then` from the thread when it is written, or was not because of a failure.

        Raises:
            OSError: What was given before could not be written.
        """
        self._queue.put((data, then))
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (given := self._queue.get()) is not None:
            data, then = given
            try:
                if self._failure is None:
                    self._write(data)
            except OSError as exc:
                self._failure = exc
            then()

    def _write(self, data: memoryview) -> None:
        if self._direct_fd is not None and self._fast and not (self._at % BLOCK_BYTES or len(data) % BLOCK_BYTES):
            try:
                data = self._write_to(self._direct_fd, data)
            except OSError:  # a file system that does not take it after all; whatever else it is, it comes again below
                os.close(self._direct_fd)
                self._direct_fd = None
        while data:  # a file may take a part of it, as when the disk fills up
            data = self._write_to(self._cached_fd, data)
        self._sync_now_and_then()

    @property
    def _fast(self) -> bool:
        written = self._at - self._start
        return written >= self._tried_bytes and written > _FAST * (self._now() - self._start_s)

    def _write_to(self, fd: int, data: memoryview) -> memoryview:
        """Write the beginning of `data`; return the rest."""
        os.lseek(fd, self._at, os.SEEK_SET)
        count = os.write(fd, data)
        self._at += count
        if fd == self._direct_fd:
            self.direct_bytes += count
        else:
            self._unsynced_bytes += count
        return data[count:]

    def _sync_now_and_then(self) -> None:
        """Have what is in the page cache brought to the disk, so that little is left to be brought at the end."""
        if self._unsynced_bytes >= _SYNC_BYTES and (self._synced is None or self._synced.done()):
            self._unsynced_bytes = 0
            self._synced = self._syncing.submit(os.fsync, self._cached_fd)


def _open_direct(path: Path) -> int | None:
    """Open a file to be written past the page cache; None where that is not to be had."""
    flag: int | None = getattr(os, "O_DIRECT", None)  # Linux
    if flag is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | flag)
    except OSError:  # the file system does not take it
        return None

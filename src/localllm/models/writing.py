"""Writing a file while it comes, on a thread of its own, and past the page cache where that is what holds it up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
        self._failure: BaseException | None = None
        self._cached_fd: int = os.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        self._direct_fd: int | None = _open_direct(path)
        self._unsynced_bytes = 0  # written to the page cache, and not on their way to the disk
        self._syncing = ThreadPoolExecutor(1, "localllm-fsync")
        self._synced: Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name="localllm-write")
        self.direct_bytes: int = 0
        """Bytes that went past the page cache."""

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        self._syncing.shutdown()
        self._close()
        if self._failure is not None:
            raise self._failure
        if self._synced is not None:
            self._synced.result()

    def _close(self) -> None:
        self._close_direct()
        os.close(self._cached_fd)

    def _close_direct(self) -> None:
        fd, self._direct_fd = self._direct_fd, None
        if fd is not None:
            os.close(fd)

    def put(self, data: memoryview, then: Callable[[], None]) -> None:
        """Write `data` later, and call `then` from the thread when it is written, or was not because of a failure.

        Raises:
            OSError: What was given before could not be written. What is given now is not either.
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
            except BaseException as exc:  # noqa: BLE001  # for whoever gives more: nobody is to wait for ever
                self._failure = exc
            finally:
                then()

    def _write(self, data: memoryview) -> None:
        if not data:
            return
        if self._fast and self._direct_fd is not None and not (self._at % BLOCK_BYTES or len(data) % BLOCK_BYTES):
            # Else the file could have its new length on the disk before what is in the cache, and keep it if the power
            # failed: a part whose middle was never written.
            self._sync()
            try:
                data = self._write_to(self._direct_fd, data)
            except OSError:  # a file system that does not take it after all; whatever else it is, it comes again below
                self._close_direct()
        while data:  # a file may take a part of it, as when the disk fills up
            data = self._write_to(self._cached_fd, data)
        if self._unsynced_bytes >= _SYNC_BYTES and (self._synced is None or self._synced.done()):
            self._begin_sync()

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

    def _begin_sync(self) -> None:
        """Have what is in the page cache brought to the disk meanwhile, so that little is left for the end."""
        if self._synced is not None:
            self._synced.result()  # else its failure would go unseen: the system tells it once
        with suppress(RuntimeError):  # the interpreter is on its way out, or has no thread to spare; the end will do it
            self._synced = self._syncing.submit(os.fsync, self._cached_fd)
            self._unsynced_bytes = 0

    def _sync(self) -> None:
        """Bring what is in the page cache to the disk."""
        if self._synced is not None:
            self._synced.result()
            self._synced = None
        if self._unsynced_bytes:
            os.fsync(self._cached_fd)
            self._unsynced_bytes = 0


def _open_direct(path: Path) -> int | None:
    """Open a file to be written past the page cache; None where that is not to be had."""
    flag: int | None = getattr(os, "O_DIRECT", None)  # Linux
    if flag is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | flag)
    except OSError:  # the file system does not take it
        return None

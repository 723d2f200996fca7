"""Writing a file and hashing it while it comes: received and written on one thread, hashed on another."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO, Self

_READ_BYTES = 1024 * 1024
_BUFFER_BYTES = 256 * 1024
_BUFFERS = 4  # together less than a processor's own cache: through memory, all of this takes twice as long
_SYNC_BYTES = 64 * 1024 * 1024  # written before they are brought to the disk


class RunningHash:
    """The SHA-256 of a file's first bytes, which it also writes; a context manager, at whose end its threads end.

    The next bytes are put into `room()`, then taken by `filled(count)`.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._buffer = memoryview(b"")
        self._filled_bytes = 0
        self._made = 0  # buffers
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._handed_over: SimpleQueue[tuple[memoryview, memoryview] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._file: BinaryIO | None = None
        self._syncing = ThreadPoolExecutor(1, "localllm-fsync")
        self._synced: Future[None] | None = None
        self._unsynced_bytes = 0
        self.done_bytes: int = 0
        """Bytes that it was given."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._handed_over.put(None)
            self._thread.join()
        self._syncing.shutdown()

    @contextmanager
    def writing(self, file: BinaryIO) -> Iterator[None]:
        """While inside, write what comes to `file`, which is unbuffered; all of it is written at the end.

        Raises:
            OSError: It cannot be written; perhaps some of it was.
        """
        self._file = file
        try:
            yield
        finally:
            try:
                self._drain()
                if self._synced is not None:
                    self._synced.result()
            finally:
                self._file, self._synced = None, None

    def room(self) -> memoryview:
        """Return memory for the next bytes of the file; there is always some."""
        if not self._buffer:
            self._buffer = self._next_buffer()
        return self._buffer[self._filled_bytes :]

    def filled(self, count: int) -> None:
        """Take the first `count` bytes of the `room`; they are written and hashed later.

        Raises:
            OSError: What was given cannot be written.
        """
        self._filled_bytes += count
        self.done_bytes += count
        if self._filled_bytes == len(self._buffer):
            self._hand_over()

    def catch_up(self, path: Path, end: int, on_bytes: Callable[[int], None]) -> None:
        """Be the hash of the first `end` bytes of `path`, reading what was not given yet.

        Args:
            path: The file.
            end: Bytes.
            on_bytes: Told how many bytes are done, again and again; may raise.

        Raises:
            OSError: It cannot be read.
        """
        if self.done_bytes > end:
            self._drain()
            self._hash = hashlib.sha256()
            self.done_bytes = 0
        if self.done_bytes == end:
            return
        self._drain()
        with path.open("rb", buffering=0) as file:
            file.seek(self.done_bytes)
            while self.done_bytes < end and (data := file.read(min(_READ_BYTES, end - self.done_bytes))):
                self._hash.update(data)
                self.done_bytes += len(data)
                on_bytes(self.done_bytes)

    def hexdigest(self) -> str:
        """Return the checksum of what was given, in hexadecimal digits."""
        self._drain()
        return self._hash.hexdigest()

    def _next_buffer(self) -> memoryview:
        if self._made < _BUFFERS:
            self._made += 1
            return memoryview(bytearray(_BUFFER_BYTES))
        return self._free.get()

    def _hand_over(self) -> None:
        """Write what has come, and have the thread hash it while the next comes."""
        buffer, data = self._buffer, self._buffer[: self._filled_bytes]
        self._buffer, self._filled_bytes = memoryview(b""), 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._hash_all, name="localllm-hash")
            self._thread.start()
        try:
            if self._file is not None:
                _write_all(self._file, data)
                self._sync(self._file, len(data))
        finally:
            self._handed_over.put((buffer, data))

    def _hash_all(self) -> None:
        while (handed_over := self._handed_over.get()) is not None:
            buffer, data = handed_over
            self._hash.update(data)
            self._free.put(buffer)

    def _sync(self, file: BinaryIO, count: int) -> None:
        """Have what was written brought to the disk now and then, so that little is left to be brought at the end."""
        self._unsynced_bytes += count
        if self._unsynced_bytes >= _SYNC_BYTES and (self._synced is None or self._synced.done()):
            self._unsynced_bytes = 0
            self._synced = self._syncing.submit(os.fsync, file.fileno())

    def _drain(self) -> None:
        """Wait until everything that was given is written and hashed."""
        try:
            if self._filled_bytes:
                self._hand_over()
        finally:
            for buffer in [self._free.get() for _ in range(self._made - bool(self._buffer))]:
                self._free.put(buffer)


def hash_file(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Args:
        path: The file.
        on_bytes: Told how many bytes are done, again and again; may raise.

    Raises:
        OSError: It cannot be read.
    """
    with RunningHash() as running:
        running.catch_up(path, path.stat().st_size, on_bytes)
        return running.hexdigest()


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:  # a file may take a part of it, as when the disk fills up
        data = data[file.write(data) :]

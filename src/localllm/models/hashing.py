"""Hashing a file, also while it comes: it is received on one thread, written on a second and hashed on a third."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from localllm.models.writing import BLOCK_BYTES, FileWriter

_READ_BYTES = 1024 * 1024
_BUFFER_BYTES = 256 * 1024
_BUFFERS = 6  # together less than a processor's own cache: through memory, all of this takes twice as long


class RunningHash:
    """The SHA-256 of a file's first bytes, which it also writes; a context manager, at whose end its threads end.

    The next bytes are put into `room()`, then taken by `filled(count)`.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._buffer: memoryview | None = None  # which is being filled
        self._filled_bytes = 0
        self._size_bytes = 0  # to be filled of it, so that the next one begins at the beginning of a block of the file
        self._made = 0  # buffers
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._handed_over: SimpleQueue[tuple[memoryview, memoryview] | threading.Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._writer: FileWriter | None = None
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

    @contextmanager
    def writing(self, path: Path, start: int) -> Iterator[None]:
        """While inside, write what comes to `path`, from its byte `start` on; all of it is written at the end.

        Raises:
            OSError: It cannot be written; perhaps some of it was.
        """
        with FileWriter(path, start) as self._writer:
            try:
                yield
            finally:
                try:
                    self._drain()
                finally:
                    self._writer = None

    def room(self) -> memoryview:
        """Return memory for the next bytes of the file; there is always some."""
        if self._buffer is None:
            self._buffer = self._next_buffer()
        if not self._filled_bytes:
            self._size_bytes = _BUFFER_BYTES - self.done_bytes % BLOCK_BYTES
        return self._buffer[self._filled_bytes : self._size_bytes]

    def filled(self, count: int) -> None:
        """Take the first `count` bytes of the `room`; they are written and hashed later.

        Raises:
            OSError: What was given before cannot be written.
        """
        self._filled_bytes += count
        self.done_bytes += count
        if self._buffer is not None and self._filled_bytes == self._size_bytes:
            self._hand_over(self._buffer)

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
        if self._made == _BUFFERS:
            return self._free.get()
        pages = memoryview(mmap.mmap(-1, _BUFFER_BYTES))  # writing past the page cache asks for memory from a page on
        self._made += 1
        return pages

    def _hand_over(self, buffer: memoryview) -> None:
        """Have what has come written, if it is to be, then hashed, while the next comes."""
        if self._thread is None:
            thread = threading.Thread(target=self._hash_all, name="localllm-hash")
            thread.start()
            self._thread = thread
        data = buffer[: self._filled_bytes]
        self._buffer, self._filled_bytes = None, 0
        self._pass_on((buffer, data), data)

    def _pass_on(self, item: tuple[memoryview, memoryview] | threading.Event, data: memoryview) -> None:
        """Hand something to the thread that hashes, once `data` and all before it is written."""
        if self._writer is None:
            self._handed_over.put(item)
        else:
            self._writer.put(data, lambda: self._handed_over.put(item))

    def _hash_all(self) -> None:
        while (item := self._handed_over.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            buffer, data = item
            self._hash.update(data)
            self._free.put(buffer)

    def _drain(self) -> None:
        """Wait until everything that was given is written and hashed."""
        try:
            if self._buffer is not None and self._filled_bytes:
                self._hand_over(self._buffer)
        finally:
            if self._thread is not None:
                done = threading.Event()
                try:
                    self._pass_on(done, memoryview(b""))
                finally:
                    done.wait()


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

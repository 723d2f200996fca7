"""Writing a file and hashing it while it comes, on a thread of their own beside the one that receives."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from hashlib import _Hash

_READ_BYTES = 1024 * 1024
_BATCH_BYTES = 1024 * 1024  # handed over at once: a hand-over costs as much as hashing some 10 KB
_SYNC_BYTES = 64 * 1024 * 1024  # written before they are brought to the disk
_MAX_BATCHES = 4  # that wait for the thread; beyond it the download waits, so that memory stays flat


class RunningHash:
    """The SHA-256 of a file's first bytes, which it also writes; a context manager, at whose end its threads end."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._handed_over: deque[Future[None]] = deque()
        self._thread = ThreadPoolExecutor(1, "localllm-download")  # begins with the first batch
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
        self._thread.shutdown()
        self._syncing.shutdown()

    @contextmanager
    def writing(self, file: BinaryIO) -> Iterator[None]:
        """While inside, write what `update` is given to `file`, which is unbuffered; all of it is written at the end.

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

    def update(self, data: bytes) -> None:
        """Take the next bytes of the file; they are written and hashed later, on the thread.

        Raises:
            OSError: What was given before cannot be written.
        """
        self._batch.append(data)
        self._batch_bytes += len(data)
        self.done_bytes += len(data)
        if self._batch_bytes >= _BATCH_BYTES:
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

    def _hand_over(self) -> None:
        self._sync()
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._handed_over.append(self._thread.submit(_take, self._hash, self._file, batch))
        if len(self._handed_over) > _MAX_BATCHES:
            self._handed_over.popleft().result()

    def _sync(self) -> None:
        """Have what was written brought to the disk now and then, so that little is left to be brought at the end."""
        self._unsynced_bytes += self._batch_bytes
        if self._file is None or self._unsynced_bytes < _SYNC_BYTES:
            return
        if self._synced is None or self._synced.done():
            self._unsynced_bytes = 0
            self._synced = self._syncing.submit(os.fsync, self._file.fileno())

    def _drain(self) -> None:
        """Wait until everything that was given is written and hashed."""
        if self._batch:
            self._hand_over()
        while self._handed_over:
            self._handed_over.popleft().result()


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


def _take(running: _Hash, file: BinaryIO | None, batch: list[bytes]) -> None:
    for data in batch:  # not joined: fresh memory of that size costs more than the calls
        if file is not None:
            view = memoryview(data)
            while view:  # a file may take a part of it, as when the disk fills up
                view = view[file.write(view) :]
        running.update(data)

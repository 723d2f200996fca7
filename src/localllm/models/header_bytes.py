"""The first bytes of a model file, read on demand and never past its end."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from localllm.errors import InvalidModelFileError, ModelLoadError, ModelNotFoundError

MAX_HEADER_BYTES = 256 * 1024 * 1024
"""More than any real header by a factor of ten; what a hostile file of many gigabytes can make us read."""

_FIRST_READ_BYTES = 256 * 1024
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def open_regular(path: Path) -> BinaryIO:
    """Open `path` for reading, unbuffered, if it is a regular file with something in it.

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelFileError: It is a directory, a device or an empty file.
        ModelLoadError: It cannot be opened.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as exc:  # ValueError: a NUL in the path
        raise ModelNotFoundError(f"there is no file {str(path)!r}") from exc
    except OSError as exc:
        raise ModelLoadError(f"cannot read {path}: {exc.strerror or exc}") from exc
    if stat.S_ISDIR(mode):
        raise InvalidModelFileError(f"{path} is a directory; give the path of a .gguf file in it")
    if not stat.S_ISREG(mode):
        raise InvalidModelFileError(f"{path} is not a regular file; copy the model to a file first")
    try:
        file = path.open("rb", buffering=0)
    except OSError as exc:
        raise ModelLoadError(f"cannot read {path}: {exc.strerror or exc}") from exc
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise InvalidModelFileError(f"{path} is empty (0 bytes); the download did not happen, get the file again")
    return file


class HeaderBytes:
    """Reads little-endian values one after another.

    Every read is checked against the file's size before anything is allocated for it.

    Args:
        file: The open file, at its start.
        path: Its path, for messages.
    """

    path: Path
    size: int
    """Bytes of the whole file."""
    data: bytes
    """What has been read so far, from the start of the file."""
    pos: int
    """Where the next value begins, in bytes from the start of the file."""
    where: str
    """What is being read, for messages."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self.path = path
        self.size = os.fstat(file.fileno()).st_size
        self.data = b""
        self.pos = 0
        self.where = "the magic"

    def refuse(self, problem: str, *, at: int | None = None) -> InvalidModelFileError:
        """Return the error that says `problem` of what is being read, at byte `at` (default: the next value)."""
        return InvalidModelFileError(f"{self.path}: {self.where}, byte {self.pos if at is None else at}: {problem}")

    def need(self, end: int) -> None:
        """Make `data` hold the file's first `end` bytes.

        Raises:
            InvalidModelFileError: The file is shorter than that, or a header cannot be as long as that.
        """
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.refuse(
                f"the file ends too early: it has {self.size} bytes and this needs {end}, so {end - self.size} are "
                "missing; it is truncated or damaged, get it again"
            )
        if end > MAX_HEADER_BYTES:
            raise self.refuse(f"the header is longer than {MAX_HEADER_BYTES} bytes; no real model's is")
        want = min(max(end, 2 * len(self.data), _FIRST_READ_BYTES), self.size)
        parts = [self.data]
        have = len(self.data)
        while have < want:
            part = self._file.read(want - have)
            if not part:
                raise self.refuse(f"the file shrank to {have} bytes while it was read")
            parts.append(part)
            have += len(part)
        self.data = b"".join(parts)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self.pos + count
        self.need(end)
        taken = self.data[self.pos : end]
        self.pos = end
        return taken

    def u32(self) -> int:
        """Return the next unsigned 32-bit integer."""
        self.need(self.pos + 4)
        value: int = _U32.unpack_from(self.data, self.pos)[0]
        self.pos += 4
        return value

    def u64(self) -> int:
        """Return the next unsigned 64-bit integer."""
        self.need(self.pos + 8)
        value: int = _U64.unpack_from(self.data, self.pos)[0]
        self.pos += 8
        return value

    def string(self, max_bytes: int) -> bytes:
        """Return the next string: a length of 64 bits and as many bytes.

        Raises:
            InvalidModelFileError: It is longer than `max_bytes` or than the file.
        """
        length = self.u64()
        if length > max_bytes:
            raise self.refuse(f"a length of {length} bytes; allowed: 0 to {max_bytes}", at=self.pos - 8)
        return self.take(length)

    def skip_strings(self, count: int) -> bytes:
        """Step over `count` strings and return the bytes that hold them, lengths included.

        Raises:
            InvalidModelFileError: They reach past the file's end.
        """
        start = pos = self.pos
        done = 0
        unpack = _U64.unpack_from
        while True:
            data = self.data
            try:
                while done < count:
                    pos += 8 + unpack(data, pos)[0]
                    done += 1
                break
            except (struct.error, OverflowError):
                self.pos = min(pos, self.size)
                self.need(pos + 8)
        self.pos = pos
        self.need(pos)
        return self.data[start:pos]

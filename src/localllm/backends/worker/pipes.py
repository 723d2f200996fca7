"""Reading and writing pipes by their file descriptors, without buffers in between."""

from __future__ import annotations

import os
import select
import sys

AT_ONCE_BYTES: int = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe with room takes without waiting; on Linux the tokens of some two hundred streams."""

_READ_BYTES = 1 << 16


def read_some(fd: int) -> bytes:
    """Wait for bytes and return what there is; nothing at the end, or if the pipe is broken."""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""


def write_all(fd: int, data: bytes) -> bool:
    """Write all of `data`, waiting for room as often as needed; False if nobody reads any more."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        return False
    return True


def has_room(fd: int) -> bool:
    """Whether a pipe takes AT_ONCE_BYTES without waiting; False where that cannot be known, as on Windows."""
    if sys.platform == "win32":
        return False
    try:
        return bool(select.select((), (fd,), (), 0)[1])
    except (OSError, ValueError):  # it is closed, or its number is too high for select
        return False

"""Reading and writing pipes by their file descriptors, without buffers in between."""

from __future__ import annotations

import os

_AT_ONCE = 1 << 16


def read_some(fd: int) -> bytes:
    """Wait for bytes and return what there is; nothing at the end, or if the pipe is broken."""
    try:
        return os.read(fd, _AT_ONCE)
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

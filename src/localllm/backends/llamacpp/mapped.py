"""Mapped files whose content has been copied: their pages need not stay in the process. Linux only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_READ_ONLY = "r--s"  # only there: nothing but what the file holds can be lost
_MADV_DONTNEED = 4


def let_go(paths: Iterable[Path]) -> int:
    """Take a process's mapped pages of files off it; those that are read again come back from the page cache.

    Where llama.cpp lays weights out anew for the processor, it reads each matrix once, and then never again but the
    rows of the embeddings that are asked for. So the process would hold its weights twice. What it does use where it is
    costs some milliseconds to come back.

    Args:
        paths: Files that are mapped, read-only and shared. Others stay as they are.

    Returns:
        Bytes of the mappings that were let go of; 0 where the system does not tell which there are.
    """
    if sys.platform != "linux":
        return 0
    wanted = {os.path.realpath(path) for path in paths}
    try:
        maps = Path("/proc/self/maps").read_text(errors="surrogateescape")
        advise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # it is for tidiness alone
        return 0
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    freed = 0
    for start, stop in _mappings(maps, wanted):
        if advise(start, stop - start, _MADV_DONTNEED) == 0:
            freed += stop - start
    return freed


def _mappings(maps: str, wanted: set[str]) -> list[tuple[int, int]]:
    """Return the addresses of read-only, shared mappings of files, from the text of `/proc/self/maps`."""
    found = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1] == _READ_ONLY and fields[5] in wanted:
            start, _, stop = fields[0].partition("-")
            found.append((int(start, 16), int(stop, 16)))
    return found

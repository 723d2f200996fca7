"""Memory of the worker's process: its limit, and how much it has."""

from __future__ import annotations

import sys
from pathlib import Path

from localllm.errors import InvalidOptionError

_STATUS = Path("/proc/self/status")


def check_memory_limit(limit_bytes: int | None) -> None:
    """Raise InvalidOptionError if this is no limit, or none that this system can hold."""
    if limit_bytes is None:
        return
    given: object = limit_bytes
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidOptionError(f"memory_limit_bytes must be an integer from 1, or None; got {given!r:.80}")
    if sys.platform != "linux":
        raise InvalidOptionError(f"memory_limit_bytes is kept by Linux only, not by {sys.platform}; leave it out")


def set_memory_limit(limit_bytes: int) -> None:
    """Let this process have so many bytes of writable memory of its own, and no more; for good.

    Counted is what Linux counts as data (RLIMIT_DATA): the heap, caches, buffers and thread stacks, as they are asked
    for. Weights mapped from the file are not data: they are shared, and can be dropped at any time. Memory of a GPU is
    not counted either.
    """
    if sys.platform != "linux":  # checked before, where the limit was given
        return
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def no_core_dumps() -> None:
    """Leave no core file behind at a crash: with a model in memory it takes minutes, and the parent would wait."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def own_memory_bytes() -> int:
    """Return the bytes of memory in use that are this process's own, files mapped into it not counted; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, kilobytes elsewhere
        return peak if sys.platform == "darwin" else peak << 10

"""Room on the disk, looked for before anything is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from localllm.errors import DiskFullError

RESERVE_BYTES = 16 * 1024 * 1024
"""What a download leaves free on the disk."""


def free_bytes_of(folder: Path) -> int:
    """Return the bytes that can be written to the disk that `folder` is on."""
    return shutil.disk_usage(folder).free


def check_room(folder: Path, needed_bytes: int, what: str, free_bytes: Callable[[Path], int]) -> None:
    """Do nothing if there is room for `needed_bytes` more.

    Raises:
        DiskFullError: There is not; the message has the figures.
    """
    free = free_bytes(folder)
    if needed_bytes + RESERVE_BYTES > free:
        raise DiskFullError(
            f"{what} needs {needed_bytes} bytes more (and {RESERVE_BYTES} to spare), and {folder} has room for {free}; "
            "free some, or put the store elsewhere with LOCALLLM_HOME"
        )

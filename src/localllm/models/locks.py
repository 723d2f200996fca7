"""Locks between processes, and writing a file so that readers see the old one or the new one, whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localllm.errors import LocalLLMError, StoreError


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lock `path`; the system frees it if this process dies.

    Args:
        path: The lock's file, which stays.
        on_wait: Called again and again while another holds it; lets a little time pass, and may raise.

    Yields:
        Whether another held it before.

    Raises:
        StoreError: The file cannot be made.
    """
    from filelock import FileLock, Timeout  # not at the top: it loads asyncio

    waited = False
    lock = FileLock(path)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
            break
        except Timeout:
            waited = True
            on_wait()
        except (OSError, NotImplementedError) as exc:
            raise StoreError(f"cannot lock {path}: {exc}") from exc
    try:
        yield waited
    finally:
        lock.release()


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Make what the disk does wrong a StoreError that begins with `what`; our own errors pass."""
    try:
        yield
    except LocalLLMError:
        raise
    except OSError as exc:
        raise StoreError(f"{what}: {exc}") from exc


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, which holds what it did or all of `data`, whatever happens.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the system can."""
    with suppress(OSError):  # Windows opens no folders; a lost name is only a download more
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""What makes two loads the same: the same file as it is now, or the same name, and the same config."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from localllm.errors import ModelLoadError
from localllm.options import ModelConfig


@frozen
class FileStamp:
    """A file as it was at one moment: a file that is replaced or changed has another stamp.

    Args:
        path: Where it is, links followed.
        size_bytes: Its size; -1 if it cannot be told.
        changed_ns: When it was last changed, as the system counts nanoseconds.
    """

    path: Path
    size_bytes: int
    changed_ns: int


@frozen
class Identity:
    """What a model is known by.

    Args:
        config: How it is loaded.
        files: Its files; none for a backend without files.
        ref: Its name; empty if it has files, which may have several names.
    """

    config: ModelConfig
    files: tuple[FileStamp, ...] = ()
    ref: str = ""

    def check_unchanged(self) -> None:
        """Raise ModelLoadError if a file is another one now: what was loaded cannot come back."""
        for stamp in self.files:
            if stamp_of(stamp.path) != stamp:
                raise ModelLoadError(
                    f"{stamp.path} has changed since it was loaded; load it again with ModelManager.load, and give "
                    "sessions the new model"
                )


def identity_of(ref: str, files: Iterable[Path], config: ModelConfig) -> Identity:
    """Return what a model is known by.

    Args:
        ref: Its reference.
        files: All its files; none for a backend without files.
        config: How it is loaded.
    """
    stamps = tuple(stamp_of(path) for path in files)
    return Identity(config, stamps) if stamps else Identity(config, ref=ref)


def stamp_of(path: Path) -> FileStamp:
    """Return a file as it is now."""
    try:
        whole = path.resolve()
        found = whole.stat()
    except (OSError, RuntimeError):  # gone, or links in a circle: whoever opens it says so
        return FileStamp(path, -1, 0)
    return FileStamp(whole, found.st_size, found.st_mtime_ns)

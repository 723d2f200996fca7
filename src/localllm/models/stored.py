"""A model that is on this machine, as values: what the store lists and hands out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from attrs import frozen

Origin: TypeAlias = Literal["store", "package", "path", "huggingface", "ollama", "lmstudio"]
"""Whose files they are: the store's own; a Python package's; the user's; or another program's, which we only read."""


@frozen(kw_only=True)
class StoredFile:
    """A file of a model.

    Args:
        path: Where it is.
        size_bytes: Its size when it was noted.
        sha256: Its checksum in hexadecimal digits; None if nobody has told it.
    """

    path: Path
    size_bytes: int
    sha256: str | None = None


@frozen(kw_only=True)
class StoredModel:
    """A model that is on this machine.

    Args:
        ref: A reference that leads to exactly this model.
        files: Its files, the first one first; several for a model in parts.
        origin: Whose files they are.
        revision: The branch or tag that was asked for, for a model of the Hub.
        commit: The commit that this meant then.
        pulled_at: When it was fetched, in UTC (ISO 8601); empty if that is unknown.
    """

    ref: str
    files: tuple[StoredFile, ...]
    origin: Origin
    revision: str = ""
    commit: str = ""
    pulled_at: str = ""

    @property
    def path(self) -> Path:
        """The (first) file, which is what is loaded."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


@frozen(kw_only=True)
class FileCheck:
    """What `verify` found of one file.

    Args:
        path: The file.
        problem: What is wrong with it; empty if nothing.
        sha256: Its checksum as it is now; empty if it could not be read.
        expected: The checksum that it should have; None if nobody knows, so that only its header was checked.
    """

    path: Path
    problem: str = ""
    sha256: str = ""
    expected: str | None = None


@frozen(kw_only=True)
class Verification:
    """What `verify` found.

    Args:
        model: The model.
        files: Each of its files.
    """

    model: StoredModel
    files: tuple[FileCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(file.problem for file in self.files)

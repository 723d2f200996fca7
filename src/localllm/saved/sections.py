"""A file of sections, each with a checksum: the frame of a saved session.

The file begins with `MAGIC`. Sections follow to the end of the file: four letters that say what the section is, the
payload's length (8 bytes, little-endian), the SHA-256 of letters, length and payload (32 bytes), and the payload. The
last section is an empty `END`, so that a file that was cut off is told from a whole one.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from attrs import frozen

from localllm.errors import DamagedSessionError

MAGIC = b"localllm session\n"
END = b"END."
_HEAD = struct.Struct("<4sQ")
_CHECKSUM_BYTES = 32
_PIECE_BYTES = 1 << 20


@frozen
class Section:
    """Where a section of a file is.

    Args:
        kind: Its four letters.
        offset: Where its payload begins, in bytes from the file's beginning.
        length: Of its payload, in bytes.
    """

    kind: bytes
    offset: int
    length: int


def write_section(file: IO[bytes], kind: bytes, *payload: bytes) -> None:
    """Append a section to a file; the parts of `payload` are written one after the other."""
    length = sum(len(part) for part in payload)
    digest = hashlib.sha256(_HEAD.pack(kind, length))
    for part in payload:
        digest.update(part)
    file.write(_HEAD.pack(kind, length) + digest.digest())
    for part in payload:
        file.write(part)


def sections_of(path: Path) -> tuple[Section, ...]:
    """Return the sections of a file, all of their checksums verified.

    Reads the file in pieces: memory does not grow with it.

    Raises:
        DamagedSessionError: It is no file of sections, or damaged, or cut off.
        OSError: It cannot be read.
    """
    found: list[Section] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise DamagedSessionError(f"{path} is no saved session: it does not begin as one")
        while not found or found[-1].kind != END:
            section, checksum = _head(file, path, size)
            if _digest(file, section) != checksum:
                raise DamagedSessionError(f"{path} is damaged: another checksum at byte {section.offset}")
            found.append(section)
        if file.read(1):
            raise DamagedSessionError(f"{path} is damaged: something follows its end")
    return tuple(found)


def payload_of(path: Path, section: Section) -> bytes:
    """Return a section's payload; its checksum is verified again, for files may change.

    Raises:
        DamagedSessionError: It is not what `sections_of` found.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        file.seek(section.offset - _HEAD.size - _CHECKSUM_BYTES)
        head = file.read(_HEAD.size)
        checksum, payload = file.read(_CHECKSUM_BYTES), file.read(section.length)
    if head != _HEAD.pack(section.kind, section.length) or hashlib.sha256(head + payload).digest() != checksum:
        raise DamagedSessionError(f"{path} has changed while it was read")
    return payload


def payloads_of(file: IO[bytes], path: Path, most_bytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kinds and payloads of an open file's sections, each verified; reads no further than it is asked to.

    Args:
        file: The file, at its beginning.
        path: What it is called in errors.
        most_bytes: What a payload may have.

    Raises:
        DamagedSessionError: It is no file of sections, or damaged, or cut off.
        OSError: It cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedSessionError(f"{path} is no file of sections: it does not begin as one")
    kind = b""
    while kind != END:
        section, checksum = _head(file, path, size)
        if section.length > most_bytes:
            raise DamagedSessionError(f"{path} has a section of {section.length} bytes")
        kind, payload = section.kind, file.read(section.length)
        digest = hashlib.sha256(_HEAD.pack(kind, section.length))
        digest.update(payload)
        if digest.digest() != checksum:
            raise DamagedSessionError(f"{path} is damaged: another checksum at byte {section.offset}")
        if kind == END and file.read(1):
            raise DamagedSessionError(f"{path} is damaged: something follows its end")
        yield kind, payload


@contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Yield a new file that takes the place of `path` at the block's end, whole or not at all.

    Args:
        path: The file.
        durable: Whether it has reached the disk by then; without, a power cut may leave a damaged one.

    Raises:
        OSError: It cannot be written; `path` is as it was.
    """
    temporary = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False)  # noqa: SIM115
    try:
        with temporary as file:
            yield file.file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary.name).replace(path)
    except BaseException:
        Path(temporary.name).unlink(missing_ok=True)
        raise


def _head(file: IO[bytes], path: Path, size: int) -> tuple[Section, bytes]:
    head, checksum = file.read(_HEAD.size), file.read(_CHECKSUM_BYTES)
    if len(checksum) < _CHECKSUM_BYTES:
        raise DamagedSessionError(f"{path} is cut off after {size} bytes")
    kind, length = _HEAD.unpack(head)
    section = Section(kind, file.tell(), length)
    if length > size - section.offset:
        raise DamagedSessionError(f"{path} is damaged or cut off: a section of {length} bytes does not fit into it")
    return section, checksum


def _digest(file: IO[bytes], section: Section) -> bytes:
    digest = hashlib.sha256(_HEAD.pack(section.kind, section.length))
    left = section.length
    while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.digest()

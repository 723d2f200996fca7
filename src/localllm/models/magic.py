"""The first bytes of a model file: is it GGUF, of a version that llama.cpp reads, and if not, what is it?"""

from __future__ import annotations

from localllm.errors import InvalidModelFileError
from localllm.models.header_bytes import HeaderBytes

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page: the download gave an error page or needs a login"),
    (b"<!doctype", "a web page: the download gave an error page or needs a login"),
    (b"<html", "a web page: the download gave an error page or needs a login"),
    (b"PK\x03\x04", "a ZIP archive, perhaps a PyTorch checkpoint: convert it to GGUF"),
    (b"lmgg", "a model in the old GGML format: convert it to GGUF"),
    (b"tjgg", "a model in the old GGJT format: convert it to GGUF"),
    (b"fmgg", "a model in the old GGMF format: convert it to GGUF"),
    (b"FUGG", "a big-endian GGUF file: convert it on a little-endian machine"),
)


def check_magic(source: HeaderBytes) -> int:
    """Read magic and version, and return the version.

    Raises:
        InvalidModelFileError: It is no GGUF file, or of a version or byte order that llama.cpp does not read.
    """
    source.need(min(len(MAGIC), source.size))
    if source.data[: len(MAGIC)] != MAGIC:
        raise _not_gguf(source)
    source.pos = len(MAGIC)
    source.where = "the version"
    version = source.u32()
    at = source.pos - 4
    if version in VERSIONS:
        return version
    if version == 1:
        raise source.refuse("GGUF version 1, which llama.cpp no longer reads: convert the model again", at=at)
    if version & 0xFFFF == 0:
        raise source.refuse(f"{version:#010x}: a big-endian GGUF file, and only little-endian ones are read", at=at)
    raise source.refuse(f"GGUF version {version}; allowed: {VERSIONS[0]} and {VERSIONS[-1]}", at=at)


def _not_gguf(source: HeaderBytes) -> InvalidModelFileError:
    """Return the error for a file that does not begin as GGUF does: say what it seems to be."""
    start = source.data[:32]
    guess = next((text for prefix, text in _OTHERS if source.data.startswith(prefix)), "")
    if not guess and start[8:9] == b"{":
        guess = "perhaps a safetensors file: convert it to GGUF"
    if not guess and _is_text(start):
        guess = "a text file"
    seems = f"; it seems to be {guess}" if guess else ""
    return InvalidModelFileError(f"{source.path} is not a GGUF file: it begins with {start!r}, not {MAGIC!r}{seems}")


def _is_text(start: bytes) -> bool:
    """Say whether `start` reads as text; its last character may be cut."""
    text = start.decode(errors="ignore")
    return len(text.encode()) >= len(start) - 3 and all(char.isprintable() or char.isspace() for char in text)

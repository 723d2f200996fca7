"""Models in parts: `name-00001-of-00003.gguf` and its siblings, which llama.cpp opens itself when given the first."""

from __future__ import annotations

import re
from pathlib import Path

from localllm.errors import InvalidModelFileError, ModelNotFoundError
from localllm.models.gguf import GGUFHeader, ValueType, read_header
from localllm.models.keys import Keys

_FIRST = re.compile(r"(?P<prefix>.+)-00001-of-(?P<count>[0-9]{5})\.gguf")


def part_count(header: GGUFHeader) -> int:
    """Return of how many files the model consists.

    Raises:
        InvalidModelFileError: The keys that say so are of a wrong type, or this is not the first part.
    """
    keys = Keys(header, "split.")
    count = _u16(keys, "count")
    number = _u16(keys, "no")
    keys.find("tensors.count", ValueType.INT32)
    if count is None or count <= 1:
        return 1
    if number is None or number:
        raise keys.refuse("no", f"{number}: this is not the first part of {count}; give the path of the first")
    return count


def part_paths(header: GGUFHeader) -> tuple[Path, ...]:
    """Return the files that the model consists of, the header's own first.

    Raises:
        InvalidModelFileError: The file's name does not say which part of how many it is, so llama.cpp cannot tell
            the others' names.
    """
    count = part_count(header)
    if count == 1:
        return (header.path,)
    match = _FIRST.fullmatch(header.path.name)
    if match is None or int(match["count"]) != count:
        raise InvalidModelFileError(
            f"{header.path} is the first of {count} parts and must be named name-00001-of-{count:05d}.gguf, beside "
            "the others; rename it back"
        )
    names = (f"{match['prefix']}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1))
    return tuple(header.path.with_name(name) for name in names)


def read_parts(header: GGUFHeader) -> tuple[GGUFHeader, ...]:
    """Return the headers of all files that the model consists of, `header` itself first.

    Raises:
        ModelNotFoundError: A part is missing.
        InvalidModelFileError: A part is no such part, or holds a tensor that another part holds too.
        ModelLoadError: A part cannot be opened.
    """
    parts = [header]
    tensors = set(header.tensors)
    for number, path in enumerate(part_paths(header)[1:], start=1):
        try:
            part = read_header(path)
        except ModelNotFoundError as exc:
            raise ModelNotFoundError(f"{header.path} is a model in parts, and the part {path.name} is missing") from exc
        keys = Keys(part, "split.")
        found = _u16(keys, "no")
        if found != number:
            raise keys.refuse("no", f"{found}; allowed here: {number}")
        twice = tensors & set(part.tensors)
        if twice:
            raise InvalidModelFileError(f"{path}: tensor {min(twice)} is in another part of the model too")
        tensors |= set(part.tensors)
        parts.append(part)
    count = header.integer("split.tensors.count")
    if len(parts) > 1 and count != len(tensors):
        raise Keys(header, "split.").refuse("tensors.count", f"{count}, and the parts hold {len(tensors)}")
    return tuple(parts)


def _u16(keys: Keys, key: str) -> int | None:
    """Return the UINT16 under `key`, or None. (llama.cpp aborts at another type.)"""
    found = keys.find(key, ValueType.UINT16)
    return found.value if found is not None and isinstance(found.value, int) else None

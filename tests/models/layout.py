"""A GGUF file taken apart, independent of the reader under test: to change any one thing in it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from attrs import define, field, frozen

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


PairValue: TypeAlias = bool | int | float | str | bytes | Sequence[int] | Sequence[float] | Sequence[str | bytes]
"""What `pair` can write."""


@frozen
class Spot:
    """A number in a header.

    Args:
        what: What it is, such as "tensor 3: dimension 1".
        offset: Where it is, in bytes.
        code: How it is stored, a character of `struct`.
    """

    what: str
    offset: int
    code: str


@define
class Pair:
    """A key with its value: the type's number and the bytes after it."""

    key: bytes
    kind: int
    raw: bytes


def pair(key: str, value: PairValue) -> Pair:
    """Return a key with a value: bool, UINT32, FLOAT32, STRING, or an array of INT32, FLOAT32 or STRING."""
    kind, raw = _encoded(value)
    return Pair(key.encode(), kind, raw)


def _encoded(value: PairValue) -> tuple[int, bytes]:
    """Return a value's type and bytes."""
    if isinstance(value, bool):
        return 7, struct.pack("<B", value)
    if isinstance(value, int):
        return 4, struct.pack("<I", value)
    if isinstance(value, float):
        return 6, struct.pack("<f", value)
    if isinstance(value, str | bytes):
        text = value.encode() if isinstance(value, str) else value
        return STRING, struct.pack("<Q", len(text)) + text
    items = [struct.pack("<i", item) if isinstance(item, int) else _encoded(item)[1] for item in value]
    element = 5 if value and isinstance(value[0], int) else _encoded(value[0])[0] if value else STRING
    return ARRAY, struct.pack("<IQ", element, len(items)) + b"".join(items)


@define
class TensorEntry:
    """What the header says of a tensor."""

    name: bytes
    dims: list[int]
    kind: int
    offset: int


@define
class Document:
    """A whole file; `encode` writes it, with the data behind whatever the header has become."""

    pairs: list[Pair]
    tensors: list[TensorEntry]
    data: bytes
    alignment: int = 32
    spots: list[Spot] = field(factory=list)
    header_bytes: int = 0

    def set(self, key: str, value: PairValue) -> None:
        """Put `value` under `key`, in the place of what is there."""
        self.put(pair(key, value))

    def put(self, new: Pair) -> None:
        """Put `new` in the place of the pair of the same key, or at the end."""
        places = [index for index, old in enumerate(self.pairs) if old.key == new.key]
        if places:
            self.pairs[places[0]] = new
        else:
            self.pairs.append(new)

    def drop(self, key: str) -> None:
        """Remove `key`."""
        self.pairs = [old for old in self.pairs if old.key != key.encode()]

    def tensor(self, name: str) -> TensorEntry:
        """Return the tensor `name`."""
        return next(tensor for tensor in self.tensors if tensor.name == name.encode())

    def encode(self) -> bytes:
        """Return the file's bytes."""
        out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.pairs)))
        for pair in self.pairs:
            out += struct.pack("<Q", len(pair.key)) + pair.key + struct.pack("<I", pair.kind) + pair.raw
        for tensor in self.tensors:
            out += struct.pack("<Q", len(tensor.name)) + tensor.name
            out += struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)
            out += struct.pack("<IQ", tensor.kind, tensor.offset)
        out += bytes(-len(out) % self.alignment)
        return bytes(out) + self.data


class _Walker:
    """Steps through a header and notes where each number is."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0
        self.spots: list[Spot] = []

    def number(self, code: str, what: str) -> int:
        """Step over a number."""
        self.spots.append(Spot(what, self.pos, code))
        value: int = struct.unpack_from("<" + code, self.data, self.pos)[0]
        self.pos += struct.calcsize("<" + code)
        return value

    def string(self, what: str) -> bytes:
        """Step over a string."""
        length = self.number("Q", f"{what}: length")
        start, self.pos = self.pos, self.pos + length
        return self.data[start : self.pos]

    def value(self, kind: int, what: str) -> None:
        """Step over a value."""
        if kind == STRING:
            self.string(what)
        elif kind == ARRAY:
            element = self.number("I", f"{what}: items' type")
            for index in range(self.number("Q", f"{what}: count")):
                self.value(element, f"{what}: item {index}")
        else:
            self.number(SCALARS[kind], what)


def take_apart(path: Path) -> Document:
    """Read the (trusted) file at `path`."""
    data = path.read_bytes()
    walk = _Walker(data)
    walk.pos = 4
    walk.number("I", "version")
    tensor_count = walk.number("Q", "count of tensors")
    pairs = []
    for index in range(walk.number("Q", "count of keys")):
        key = walk.string(f"key {index}")
        name = key.decode()
        kind = walk.number("I", f"{name}: type")
        start = walk.pos
        walk.value(kind, name)
        pairs.append(Pair(key, kind, data[start : walk.pos]))
    tensors = []
    for _ in range(tensor_count):
        tensor = walk.string("tensor's name")
        name = tensor.decode()
        dims = [walk.number("Q", f"{name}: dimension") for _ in range(walk.number("I", f"{name}: dimensions"))]
        kind = walk.number("I", f"{name}: type")
        tensors.append(TensorEntry(tensor, dims, kind, walk.number("Q", f"{name}: offset")))
    end = walk.pos
    return Document(pairs, tensors, data[end + -end % 32 :], spots=walk.spots, header_bytes=end)

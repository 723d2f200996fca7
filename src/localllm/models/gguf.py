"""The GGUF file format: a bounded reader of the header, which trusts nothing that the file says.

The format is ggml's (docs/gguf.md of its repository): magic, version, counts, then typed key-value pairs, then the
tensors' names, shapes, types and offsets, then the tensors' data. Only the header is read. Whether its values make a
model that native code can take is for `localllm.models.checks`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from attrs import field, frozen

from localllm.models.header_bytes import HeaderBytes, open_regular
from localllm.models.magic import check_magic
from localllm.models.tensor_types import REMOVED_TENSOR_TYPES, TENSOR_TYPES, TensorType

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MAX_ARRAY_ITEMS = 1 << 24
MAX_KEY_BYTES = (1 << 16) - 1
MAX_STRING_BYTES = 1 << 26
MAX_NAME_BYTES = 63
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32

_MAX_INT64 = (1 << 63) - 1
_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # what a key-value pair takes at least: length, one character, type, one byte
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, one character, count of dimensions, one of them, type, offset


class ValueType(IntEnum):
    """The type of a metadata value."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_CODES: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@frozen
class GGUFArray:
    """An array among the metadata, decoded only when it is asked for: a vocabulary has hundreds of thousands of items.

    Args:
        element: Type of its items; never ARRAY.
        count: How many there are.
        data: The bytes that hold them, as in the file.
    """

    element: ValueType
    count: int
    data: bytes = field(repr=False)

    def strings(self) -> list[bytes]:
        """Return the items of an array of strings, undecoded: tokens need not be UTF-8.

        Raises:
            TypeError: It is no array of strings.
        """
        if self.element is not ValueType.STRING:
            raise TypeError(f"an array of {self.element.name}, not of STRING")
        data = self.data
        unpack = struct.Struct("<Q").unpack_from
        items: list[bytes] = []
        append = items.append
        pos = 0
        for _ in range(self.count):
            start = pos + 8
            pos = start + unpack(data, pos)[0]
            append(data[start:pos])
        return items

    def numbers(self) -> tuple[int | float, ...]:
        """Return the items of an array of numbers; of booleans, 0 and 1.

        Raises:
            TypeError: It is an array of strings.
        """
        if self.element is ValueType.STRING:
            raise TypeError("an array of STRING, not of numbers")
        return struct.unpack(f"<{self.count}{_CODES[self.element]}", self.data)


Value: TypeAlias = "bool | int | float | str | GGUFArray"
"""What a metadata value is in Python; strings are decoded as UTF-8, bad bytes replaced by U+FFFD."""


@frozen
class Metadata:
    """One metadata value.

    Args:
        type: Its type in the file.
        value: What it is.
        offset: Where it begins in the file, in bytes.
    """

    type: ValueType
    value: Value
    offset: int


@frozen
class Tensor:
    """What the header says of one tensor.

    Args:
        name: Its name, such as "blk.0.attn_q.weight".
        shape: Its dimensions, the contiguous one first (ggml's order).
        type: How its values are stored.
        offset: Where its data begins, in bytes from the start of the data.
        size_bytes: Bytes of its data.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    size_bytes: int


@frozen(kw_only=True)
class GGUFHeader:
    """The header of a GGUF file: well-formed, every tensor inside the file.

    Args:
        path: The file.
        version: Of the format: 2 or 3.
        alignment: Tensors begin at multiples of this, in bytes.
        metadata: The metadata by key, in the file's order.
        tensors: The tensors by name, in the file's order.
        data_offset: Where the tensors' data begins in the file, in bytes; the header's length.
        file_size: Bytes of the whole file.
    """

    path: Path
    version: int
    alignment: int
    metadata: Mapping[str, Metadata] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    data_offset: int
    file_size: int

    def text(self, key: str) -> str | None:
        """Return the string under `key`, or None if there is none of that type."""
        found = self.metadata.get(key)
        return found.value if found is not None and isinstance(found.value, str) else None

    def integer(self, key: str) -> int | None:
        """Return the integer under `key`, or None if there is none of that type."""
        found = self.metadata.get(key)
        if found is None or isinstance(found.value, bool) or not isinstance(found.value, int):
            return None
        return found.value

    def array(self, key: str) -> GGUFArray | None:
        """Return the array under `key`, or None if there is none of that type."""
        found = self.metadata.get(key)
        return found.value if found is not None and isinstance(found.value, GGUFArray) else None


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of the GGUF file at `path`.

    Takes memory in proportion to the header's bytes in the file, whatever the header says.

    Args:
        path: The file.

    Returns:
        The header: keys and names unique, types known, shapes and sizes without overflow, tensors inside the file.

    Raises:
        ModelNotFoundError: There is no such file.
        InvalidModelFileError: It is not such a file, or truncated, damaged or hostile; the message says what is
            wrong, where, and what is allowed.
        ModelLoadError: It cannot be opened.
    """
    with open_regular(path) as file:
        source = HeaderBytes(file, path)
        version = check_magic(source)
        source.where = "the count of tensors"
        tensor_count = _count(source, MAX_TENSORS, _MIN_TENSOR_BYTES)
        source.where = "the count of keys"
        key_count = _count(source, MAX_KEYS, _MIN_KEY_BYTES)
        metadata: dict[str, Metadata] = {}
        for index in range(key_count):
            _read_key(source, index, metadata)
        alignment = _alignment(source, metadata)
        tensors: dict[str, Tensor] = {}
        for index in range(tensor_count):
            _read_tensor(source, index, tensors)
        end = source.pos
        data_offset = -(-end // alignment) * alignment if tensors else end
        _check_places(source, tensors, alignment, data_offset)
        return GGUFHeader(
            path=path,
            version=version,
            alignment=alignment,
            metadata=MappingProxyType(metadata),
            tensors=MappingProxyType(tensors),
            data_offset=data_offset,
            file_size=source.size,
        )


def _count(source: HeaderBytes, limit: int, item_bytes: int) -> int:
    """Read a count of items that take at least `item_bytes` each."""
    at = source.pos
    count = source.u64()
    if count > limit:
        raise source.refuse(f"{count}; allowed: 0 to {limit}", at=at)
    left = source.size - source.pos
    if count * item_bytes > left:
        raise source.refuse(f"{count}, which takes {count * item_bytes} bytes or more, and {left} are left", at=at)
    return count


def _name(source: HeaderBytes, max_bytes: int) -> str:
    """Read a key or a tensor's name: printable UTF-8. (A NUL would end it early in native code.)"""
    at = source.pos
    raw = source.string(max_bytes)
    try:
        name = raw.decode()
    except UnicodeDecodeError as exc:
        raise source.refuse(f"the name {raw!r:.80} is not UTF-8", at=at) from exc
    if not name or not name.isprintable():
        raise source.refuse(f"the name {name!r:.80} is empty or holds control characters", at=at)
    return name


def _value_type(source: HeaderBytes) -> ValueType:
    """Read the type of a value."""
    at = source.pos
    number = source.u32()
    try:
        return ValueType(number)
    except ValueError:
        raise source.refuse(f"the type {number}; allowed: 0 to {max(ValueType)}", at=at) from None


def _read_key(source: HeaderBytes, index: int, metadata: dict[str, Metadata]) -> None:
    """Read the key-value pair number `index` into `metadata`."""
    source.where = f"key {index}"
    at = source.pos
    key = _name(source, MAX_KEY_BYTES)
    source.where = f"key {key[:80]}"
    if key in metadata:
        raise source.refuse("this key is there twice", at=at)
    kind = _value_type(source)
    offset = source.pos
    metadata[key] = Metadata(kind, _value(source, kind), offset)


def _value(source: HeaderBytes, kind: ValueType) -> Value:
    """Read a value of type `kind`."""
    if kind is ValueType.STRING:
        return source.string(MAX_STRING_BYTES).decode(errors="replace")
    if kind is ValueType.ARRAY:
        return _array(source)
    code = struct.Struct("<" + _CODES[kind])
    value: int | float = code.unpack(source.take(code.size))[0]
    if kind is ValueType.BOOL:
        if value not in (0, 1):
            raise source.refuse(f"the boolean {value}; allowed: 0 and 1", at=source.pos - 1)
        return bool(value)
    return value


def _array(source: HeaderBytes) -> GGUFArray:
    """Read an array: the items' type, their count, the items."""
    at = source.pos
    element = _value_type(source)
    if element is ValueType.ARRAY:
        raise source.refuse("an array of arrays, which llama.cpp does not read either", at=at)
    size = 8 if element is ValueType.STRING else struct.calcsize("<" + _CODES[element])
    count = _count(source, MAX_ARRAY_ITEMS, size)
    if element is ValueType.STRING:
        return GGUFArray(element, count, source.skip_strings(count))
    data = source.take(count * size)
    if element is ValueType.BOOL and data and max(data) > 1:
        raise source.refuse(f"an array of booleans that holds {max(data)}; allowed: 0 and 1", at=at)
    return GGUFArray(element, count, data)


def _alignment(source: HeaderBytes, metadata: Mapping[str, Metadata]) -> int:
    """Return the alignment of the tensors' data, in bytes."""
    found = metadata.get("general.alignment")
    if found is None:
        return DEFAULT_ALIGNMENT
    source.where = "key general.alignment"
    value = found.value
    if found.type is not ValueType.UINT32 or not isinstance(value, int):
        raise source.refuse(f"the type {found.type.name}; allowed: UINT32", at=found.offset)
    if not 8 <= value <= MAX_ALIGNMENT or value & (value - 1):
        raise source.refuse(f"{value} bytes; allowed: powers of two from 8 to {MAX_ALIGNMENT}", at=found.offset)
    return value


def _read_tensor(source: HeaderBytes, index: int, tensors: dict[str, Tensor]) -> None:
    """Read what the header says of tensor number `index` into `tensors`."""
    source.where = f"tensor {index}"
    at = source.pos
    name = _name(source, MAX_NAME_BYTES)
    source.where = f"tensor {name}"
    if name in tensors:
        raise source.refuse("this name is there twice", at=at)
    at = source.pos
    dims = source.u32()
    if not 1 <= dims <= MAX_DIMS:
        raise source.refuse(f"{dims} dimensions; allowed: 1 to {MAX_DIMS}", at=at)
    at = source.pos
    shape = tuple(source.u64() for _ in range(dims))
    count = prod(shape)
    if not 1 <= count <= _MAX_INT64:
        raise source.refuse(f"the shape {shape}; allowed: dimensions from 1, a product below 2**63", at=at)
    at = source.pos
    number = source.u32()
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        hint = f" ({REMOVED_TENSOR_TYPES[number]}, which ggml has given up)" if number in REMOVED_TENSOR_TYPES else ""
        raise source.refuse(f"the tensor type {number}{hint} is unknown; allowed: {sorted(TENSOR_TYPES)}", at=at)
    if shape[0] % kind.block_size:
        raise source.refuse(f"rows of {shape[0]} values, and {kind.name} needs a multiple of {kind.block_size}", at=at)
    offset = source.u64()
    tensors[name] = Tensor(name, shape, kind, offset, count // kind.block_size * kind.block_bytes)


def _check_places(source: HeaderBytes, tensors: Mapping[str, Tensor], alignment: int, data_offset: int) -> None:
    """Refuse tensors that are misaligned, overlap or reach past the file's end."""
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        source.where = f"tensor {tensor.name}"
        at = data_offset + tensor.offset
        if tensor.offset % alignment:
            raise source.refuse(f"the offset {tensor.offset} is not a multiple of {alignment}", at=at)
        if tensor.offset < end:
            raise source.refuse(f"the offset {tensor.offset} lies in the tensor before it, which ends at {end}", at=at)
        end = tensor.offset + tensor.size_bytes
        missing = data_offset + end - source.size
        if missing > 0:
            raise source.refuse(
                f"its {tensor.size_bytes} bytes reach past the end of the file, which has {source.size}: {missing} "
                "bytes are missing; the file is truncated or damaged, get it again",
                at=at,
            )

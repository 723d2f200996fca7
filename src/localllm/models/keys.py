"""Typed access to a header's metadata; each refusal names the file, key, byte and value, and what is allowed."""

from __future__ import annotations

import math

from attrs import frozen

from localllm.errors import InvalidModelFileError
from localllm.models.gguf import GGUFArray, GGUFHeader, Metadata, ValueType

MAX_INT32 = (1 << 31) - 1


@frozen
class Keys:
    """A header's metadata, read by type.

    Args:
        header: The header.
        prefix: Put before each key that is asked for, such as "llama.".
    """

    header: GGUFHeader
    prefix: str = ""

    def refuse(self, key: str, problem: str) -> InvalidModelFileError:
        """Return the error that says `problem` of `key`."""
        name = self.prefix + key
        found = self.header.metadata.get(name)
        place = "" if found is None else f", byte {found.offset}"
        return InvalidModelFileError(f"{self.header.path}: key {name}{place}: {problem}")

    def find(self, key: str, *kinds: ValueType) -> Metadata | None:
        """Return what is under `key`, or None.

        Raises:
            InvalidModelFileError: It is of none of the types `kinds`.
        """
        found = self.header.metadata.get(self.prefix + key)
        if found is not None and found.type not in kinds:
            allowed = " or ".join(kind.name for kind in kinds)
            raise self.refuse(key, f"the type {found.type.name}; allowed: {allowed}")
        return found

    def u32(self, key: str, low: int = 0, high: int = MAX_INT32) -> int | None:
        """Return the UINT32 under `key`, from `low` to `high`, or None."""
        found = self.find(key, ValueType.UINT32)
        if found is None or not isinstance(found.value, int):
            return None
        if not low <= found.value <= high:
            raise self.refuse(key, f"{found.value}; allowed: {low} to {high}")
        return found.value

    def need_u32(self, key: str, low: int = 0, high: int = MAX_INT32) -> int:
        """Return the UINT32 under `key`, from `low` to `high`; a missing one is refused too."""
        value = self.u32(key, low, high)
        if value is None:
            raise self.refuse(key, "this key is missing, and llama.cpp needs it")
        return value

    def f32(self, key: str) -> float | None:
        """Return the FLOAT32 under `key`, which is finite, or None."""
        found = self.find(key, ValueType.FLOAT32)
        if found is None or not isinstance(found.value, float):
            return None
        if not math.isfinite(found.value):
            raise self.refuse(key, f"{found.value}; allowed: finite numbers")
        return found.value

    def flag(self, key: str) -> bool | None:
        """Return the BOOL under `key`, or None."""
        found = self.find(key, ValueType.BOOL)
        return found.value if found is not None and isinstance(found.value, bool) else None

    def text(self, key: str) -> str | None:
        """Return the STRING under `key`, or None."""
        found = self.find(key, ValueType.STRING)
        return found.value if found is not None and isinstance(found.value, str) else None

    def array(self, key: str, *elements: ValueType) -> GGUFArray | None:
        """Return the array of `elements` under `key`, or None."""
        found = self.find(key, ValueType.ARRAY)
        if found is None or not isinstance(found.value, GGUFArray):
            return None
        if found.value.element not in elements:
            allowed = " or ".join(element.name for element in elements)
            raise self.refuse(key, f"an array of {found.value.element.name}; allowed: of {allowed}")
        return found.value

    def per_layer(self, key: str, layers: int, low: int, high: int) -> tuple[int, ...] | None:
        """Return the integer of each layer under `key`, where one integer stands for all, or None."""
        found = self.find(key, ValueType.UINT32, ValueType.ARRAY)
        if found is None:
            return None
        if found.type is ValueType.UINT32:
            return (self.need_u32(key, low, high),) * layers
        array = self.array(key, ValueType.UINT32, ValueType.INT32)
        if array is None or array.count != layers:
            raise self.refuse(key, f"{array and array.count} items; allowed: one for each of the {layers} layers")
        values = tuple(int(value) for value in array.numbers())
        for layer, value in enumerate(values):
            if not low <= value <= high:
                raise self.refuse(key, f"{value} for layer {layer}; allowed: {low} to {high}")
        return values

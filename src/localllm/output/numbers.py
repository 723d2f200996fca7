"""Numbers of a schema that llguidance, which computes with doubles and 64-bit integers, gets right."""

from __future__ import annotations

import math

from localllm._json import JsonValue
from localllm.errors import UnsupportedSchemaError
from localllm.output.plain import pointer

_EXACT = 2**53
"""Up to here a double holds every integer."""
_LARGEST = 2.0**63 - 1024
"""The largest double below 2**63, beyond which llguidance writes no bounds."""


def inward(keyword: str, value: float, path: str) -> float:
    """Return the nearest bound that can be enforced and allows no more than `value` does.

    Raises:
        UnsupportedSchemaError: There is none.
    """
    if keyword == "multipleOf":
        if value > _EXACT or value < 1e-9:
            raise UnsupportedSchemaError(f"{path}: multiples of {value!r:.40} cannot be enforced", path=path)
        return value
    lower = keyword in ("minimum", "exclusiveMinimum")
    if (value if lower else -value) > _LARGEST:
        raise UnsupportedSchemaError(f"{path}: numbers beyond 2**63 cannot be enforced; got {value!r:.40}", path=path)
    if abs(value) <= _EXACT:
        return 0 if value == 0 else value
    bound = float(value) if abs(value) < 2**1000 else math.copysign(_LARGEST, value)
    if lower and bound < value:
        bound = math.nextafter(bound, math.inf)
    if not lower and bound > value:
        bound = math.nextafter(bound, -math.inf)
    bound = max(bound, -_LARGEST) if lower else min(bound, _LARGEST)
    return int(bound)


def check_exact(value: JsonValue, path: str) -> None:
    """Raise UnsupportedSchemaError if a literal cannot be generated as it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_exact(item, pointer(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_exact(item, pointer(path, index))
    elif isinstance(value, str):
        found = next((char for char in value if (char < " " and char not in "\b\f\n\r\t") or char == "\x7f"), None)
        if found is not None:
            raise UnsupportedSchemaError(
                f"{path}: the control character U+{ord(found):04X} is never generated; remove it from {value!r:.80}",
                path=path,
            )
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        size = abs(value)
        if size > _EXACT or 0 < size < 1e-15:
            raise UnsupportedSchemaError(
                f"{path}: a number of this size cannot be generated exactly: {value!r:.40}; as a text it can", path=path
            )

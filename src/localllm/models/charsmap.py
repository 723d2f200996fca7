"""The normalization map of Unigram (T5) vocabularies: a trie in an array that native code walks for each character.

The format is SentencePiece's precompiled map, Darts' double array: the array's length in bytes (UINT32), its units
(UINT32 each), then the replacement texts, each ended by a NUL. llama.cpp throws at an index out of range, from
`llama_tokenize`, where nobody catches: so every index that a unit can lead to is checked here.
"""

from __future__ import annotations

import struct

from localllm.models.gguf import ValueType
from localllm.models.keys import Keys

_KEY = "precompiled_charsmap"
_IS_VALUE = 1 << 31
_HAS_VALUE = 1 << 8


def check_charsmap(keys: Keys) -> None:
    """Refuse a map that leads out of itself.

    Raises:
        InvalidModelFileError: It does, or is too short.
    """
    array = keys.array(_KEY, ValueType.INT8, ValueType.UINT8)
    if array is None:
        return
    data = array.data
    size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else 0
    if not 0 < size < len(data) - 4 or size % 4:
        raise keys.refuse(_KEY, f"{len(data)} bytes with an array of {size}; the array must be whole and lie inside")
    units: tuple[int, ...] = struct.unpack_from(f"<{size // 4}I", data, 4)
    texts = data[4 + size :]
    if texts[-1]:
        raise keys.refuse(_KEY, "the last replacement text does not end with a NUL")
    for index, unit in enumerate(units):
        if unit & _IS_VALUE and index:  # the root is walked whatever its bits say
            continue
        base = index ^ _base(unit)
        if base | 0xFF >= len(units):  # a child is at base ^ byte
            raise keys.refuse(_KEY, f"unit {index} leads to {base}; there are {len(units)} units")
        if unit & _HAS_VALUE and (units[base] & ~_IS_VALUE) >= len(texts):
            raise keys.refuse(_KEY, f"unit {index} leads to a text at {units[base] & ~_IS_VALUE} of {len(texts)} bytes")


def _base(unit: int) -> int:
    """Return how far a unit's children are, as llama.cpp computes it in 32 bits."""
    return (unit >> 10) << ((unit & (1 << 9)) >> 6) & 0xFFFFFFFF

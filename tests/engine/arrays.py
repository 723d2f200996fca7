"""Short ways to write tokens."""

from __future__ import annotations

from array import array


def tokens(*ids: int) -> array[int]:
    """Return tokens as the engine holds them."""
    return array("i", ids)

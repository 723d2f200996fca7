"""A bounded memory of results."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class Lru(Generic[_K, _V]):
    """The values used last, up to a total weight. Safe from any thread.

    Args:
        capacity: The greatest sum of weights.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0
        self._entries: OrderedDict[_K, tuple[_V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: _K) -> _V | None:
        """Return the value of `key`, if it is still there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: _K, value: _V, weight: int) -> None:
        """Remember `value`, unless it is too heavy, and forget what was used longest ago where there is no room."""
        if weight > self._capacity:
            return
        with self._lock:
            _, old = self._entries.pop(key, (None, 0))
            self._entries[key] = (value, weight)
            self._weight += weight - old
            while self._weight > self._capacity:
                _, (_, lost) = self._entries.popitem(last=False)
                self._weight -= lost

    def drop(self, key: _K) -> None:
        """Forget the value of `key`, if it is still there."""
        with self._lock:
            _, lost = self._entries.pop(key, (None, 0))
            self._weight -= lost

    @property
    def weight(self) -> int:
        """Sum of the weights of what is there."""
        return self._weight

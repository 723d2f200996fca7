"""A beginning of a prompt that is kept outside the engine, such as on disk, and brought when a request needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Stored(Protocol):
    """The longest beginning of a prompt that is kept outside."""

    @property
    def tokens(self) -> int:
        """How many tokens it has."""

    def fetch(self, done: Callable[[bool], None]) -> None:
        """Have it brought into host memory by jobs of the engine; returns at once and never raises.

        Args:
            done: To be called once, from any thread, with whether it is there now. Till then the request waits.
        """

"""When a worker is started again after a crash: pure."""

from __future__ import annotations

from attrs import define, field

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
LIMIT = 5
"""Restarts in a row without a token in between."""

COOL_DOWN_S = 60.0
"""After that many, how long nothing is started."""


@define
class Restarts:
    """Counts restarts, and spaces them: 0.05 s, 0.1 s, 0.2 s, ... A token that is delivered starts the count anew.

    After `LIMIT` of them the model is given up for `COOL_DOWN_S`; then one more is tried at a time.
    """

    total: int = field(default=0, init=False)
    _in_a_row: int = field(default=0, init=False)

    def delivered(self) -> None:
        """Take note that a token was delivered."""
        self._in_a_row = 0

    def crashed(self) -> float:
        """Take note of a crash; return the seconds to wait before the next start."""
        self.total += 1
        self._in_a_row += 1
        if self.given_up:
            return COOL_DOWN_S
        delay_s: float = min(FIRST_DELAY_S * 2.0 ** (self._in_a_row - 1), LONGEST_DELAY_S)
        return delay_s

    @property
    def in_a_row(self) -> int:
        """Crashes since a token was last delivered."""
        return self._in_a_row

    @property
    def given_up(self) -> bool:
        """Whether there were too many in a row."""
        return self._in_a_row > LIMIT

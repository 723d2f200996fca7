"""How many prompt tokens fit into a step: sized from measured rates, so that nobody's stream waits long."""

from __future__ import annotations

from typing import Protocol

MIN_CHUNK = 8
"""Prompt tokens in a step at least, so that a prompt gets on even where one decode takes the whole budget."""

IDLE_CHUNK = 64
"""Prompt tokens in a step at least while nobody streams: smaller batches read prompts at a lower rate."""

FIRST_CHUNK = 64
"""Prompt tokens in a step while the rate is unknown: a guess, corrected after one step."""

_MOVE_SHARE = 0.125
"""Part of a step's time for each kind of move while a reply is streaming: a guess; a step may restore a chat, store
another, carry a third over to a larger context, and read on."""

_IDLE_MOVE_SHARE = 0.5
"""The same while nobody streams: then nothing is read before idle chats have left."""

_WEIGHT = 0.3
"""Weight of a new measurement in the running mean: a guess; adapts within about five steps."""


def chunk_size(tokens: float, most: int) -> int:
    """Round down to a power of two, or one and a half of one, within MIN_CHUNK and `most`.

    Coarse sizes keep the portions in which a prompt is read the same from run to run, and so its floating-point sums.
    """
    size = MIN_CHUNK
    while size * 2 <= tokens:
        size *= 2
    if size * 3 // 2 <= tokens:
        size = size * 3 // 2
    return max(1, min(size, most))


class Budget(Protocol):
    """Says how many prompt tokens a step may hold, and learns from steps."""

    def prefill_tokens(self, decoding: int) -> int:
        """Return how many prompt tokens the next step may hold beside `decoding` streaming sequences."""

    def moving_s(self, decoding: int) -> float:
        """Return the seconds that the next step may spend on each kind of move."""

    def observe(self, prefilled: int, decoding: int, elapsed_s: float) -> None:
        """Learn from a batch of `prefilled` prompt tokens and `decoding` streaming sequences."""


class FixedBudget:
    """Always the same portion, whatever a step costs.

    Args:
        portion: Prompt tokens in a step.
        moving_s: Seconds of a step for each kind of move; 0 for the least there is.
    """

    def __init__(self, portion: int, *, moving_s: float = 0.0) -> None:
        self._portion = portion
        self._moving_s = moving_s

    def prefill_tokens(self, decoding: int) -> int:
        """Return the portion."""
        return self._portion

    def moving_s(self, decoding: int) -> float:
        """Return always the same."""
        return self._moving_s

    def observe(self, prefilled: int, decoding: int, elapsed_s: float) -> None:
        """Learn nothing."""


class StepBudget:
    """Learns what steps cost and says how many prompt tokens the next may hold.

    A step is taken to cost `decode_s` for its decoding sequences together, plus `token_s` for each prompt token.

    Args:
        step_s: Seconds for a step while a reply is streaming.
        idle_step_s: Seconds for a step otherwise.
        most: Tokens that a step may hold at most.
    """

    def __init__(self, step_s: float, idle_step_s: float, most: int) -> None:
        self._step_s = step_s
        self._idle_step_s = idle_step_s
        self._most = most
        self._decode_s = 0.0
        self._token_s = 0.0

    @property
    def prefill_tokens_per_s(self) -> float:
        """Measured rate of reading prompts; 0 while unknown."""
        return 1.0 / self._token_s if self._token_s else 0.0

    def prefill_tokens(self, decoding: int) -> int:
        """Return how many prompt tokens the next step may hold beside `decoding` streaming sequences."""
        if not self._token_s:
            return max(1, min(FIRST_CHUNK, self._most - decoding))
        if not decoding:
            return chunk_size(max(IDLE_CHUNK, self._idle_step_s / self._token_s), self._most)
        return chunk_size((self._step_s - self._decode_s) / self._token_s, self._most - decoding)

    def moving_s(self, decoding: int) -> float:
        """Return the seconds that the next step may spend on each kind of move."""
        return self._step_s * _MOVE_SHARE if decoding else self._idle_step_s * _IDLE_MOVE_SHARE

    def observe(self, prefilled: int, decoding: int, elapsed_s: float) -> None:
        """Learn from a batch of `prefilled` prompt tokens and `decoding` streaming sequences."""
        if prefilled == 0 and decoding:
            self._decode_s = _mean(self._decode_s, elapsed_s)
        elif prefilled >= MIN_CHUNK:
            rest_s = max(elapsed_s - (self._decode_s if decoding else 0.0), elapsed_s * 0.1)
            self._token_s = _mean(self._token_s, rest_s / prefilled)


def _mean(mean: float, value: float) -> float:
    return value if not mean else mean + _WEIGHT * (value - mean)

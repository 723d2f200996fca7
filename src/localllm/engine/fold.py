"""What reads a reply's text as it is made and tells text, thoughts and calls apart: the seam to a model's dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from localllm.types import TextDelta, ToolCall, ToolCallEvent


class Fold(Protocol):
    """Reads one reply's text, as it comes."""

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends within a thought."""

    @property
    def close_thought(self) -> str:
        """The text that closes the thought, control tokens spelled out."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that are whole."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the reply is to know: what looked like a call and stayed text."""

    @property
    def taken_chars(self) -> int:
        """Characters at the end of the request's prefix that turned out to be no text, but the beginning of a call."""

    def push(self, text: str) -> Sequence[TextDelta | ToolCallEvent]:
        """Read on, and return what is certain by now."""

    def flush(self) -> Sequence[TextDelta | ToolCallEvent]:
        """Return what was held back, now that no more will come."""

"""A conversation as the model reads it."""

from __future__ import annotations

from attrs import frozen


@frozen
class RenderedPrompt:
    """A conversation as the model reads it.

    Args:
        text: The exact text, control tokens spelled out.
        tokens: The exact tokens.
    """

    text: str
    tokens: tuple[int, ...]

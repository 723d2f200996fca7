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


@frozen
class OpenTurn:
    """A conversation as the model reads it up to the last character of its last message, whose turn goes on.

    Args:
        text: The exact text, control tokens spelled out.
        tokens: The exact tokens.
        own_chars: Characters at the text's end that are the message's.
        trimmed: White space at the message's end that the template leaves out.
        closing: What the template writes after the message, up to a line break or a control token; often nothing.
    """

    text: str
    tokens: tuple[int, ...]
    own_chars: int
    trimmed: str = ""
    closing: str = ""

"""Bytes of tokens in, whole characters out.

A token is a piece of bytes, not of text: one emoji may be spread over four tokens. What is handed out is what
`bytes.decode("utf-8", "replace")` of all the bytes gives, only that no character is handed out before it is whole.
"""

from __future__ import annotations

from codecs import utf_8_decode


class Detokenizer:
    """Assembles the bytes of one reply's tokens into text; pure, one a reply."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""  # the beginning of a character: at most three bytes

    @property
    def within_character(self) -> bool:
        """Whether a character has begun that is not whole yet."""
        return bool(self._held)

    def push(self, piece: bytes) -> str:
        """Return the characters that `piece`, the bytes of the next token, completes.

        Args:
            piece: The token's bytes; may be empty, or end within a character.

        Returns:
            Whole characters, U+FFFD for bytes that can belong to none; empty while a character is incomplete.
        """
        data = self._held + piece if self._held else piece
        text, used = utf_8_decode(data, "replace", False)
        self._held = data[used:]
        return text

    def flush(self) -> str:
        """Return what is left when the reply ends: empty, or U+FFFD for a character that was never completed."""
        text, _ = utf_8_decode(self._held, "replace", True)
        self._held = b""
        return text

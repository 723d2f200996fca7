"""A reply whose beginning the caller has given: what is told is what comes after it, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterable

from localllm.chat.dialects.parser import ReplyParser
from localllm.chat.dialects.pieces import ParserEvent, Piece, merged
from localllm.messages import ToolCall
from localllm.types import TextDelta


class PrefixedParser:
    """Takes a reply apart that begins with a prefix.

    The end of the prefix may be undecided: white space, or what may be the beginning of a mark. If it turns out to be
    text, the caller has it already; if it begins a call, say, it is no text after all.

    Args:
        parser: Takes the whole apart; nothing has been pushed yet.
        prefix: The beginning.
    """

    def __init__(self, parser: ReplyParser, prefix: str) -> None:
        self._parser = parser
        self.taken_chars: int = 0
        """Characters at the end of the prefix that turned out to be no text."""
        parser.feed(prefix)
        pieces = parser.pieces()
        self._undecided = len(prefix) - sum(len(piece.raw) for piece in pieces)
        # Of a call that goes on the caller has text, but no events yet.
        self._begun = [event for piece in pieces if not piece.raw for event in piece.events]

    @property
    def thinking(self) -> bool:
        """Whether the reply is inside of a thought."""
        return self._parser.thinking

    @property
    def close_thought(self) -> str:
        """The text that ends a thought and begins the text."""
        return self._parser.close_thought

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The whole calls so far."""
        return self._parser.calls

    @property
    def notes(self) -> tuple[str, ...]:
        """What looked like a call, could not be read as one, and stayed text."""
        return self._parser.notes

    def push(self, text: str) -> list[ParserEvent]:
        """Take the next piece of the reply; return what it settles."""
        self._parser.feed(text)
        return self._told()

    def flush(self) -> list[ParserEvent]:
        """The reply has ended; return the rest."""
        self._parser.feed("", ended=True)
        return self._told()

    def _told(self) -> list[ParserEvent]:
        begun, self._begun = self._begun, []
        return merged([Piece("", tuple(begun)), *self._beyond(self._parser.pieces())])

    def _beyond(self, pieces: Iterable[Piece]) -> Iterable[Piece]:
        """Return the pieces without the text that the prefix has."""
        for piece in pieces:
            given = min(self._undecided, len(piece.raw))
            self._undecided -= given
            yield self._without(piece, given) if given else piece

    def _without(self, piece: Piece, given: int) -> Piece:
        said = "".join(event.text for event in piece.events if isinstance(event, TextDelta))
        silent = min(given, len(piece.raw) - len(said)) if said else given  # what is no text comes before what is
        self.taken_chars += silent
        left = given - silent
        events: list[ParserEvent] = []
        for event in piece.events:
            if isinstance(event, TextDelta):
                text, left = event.text[left:], max(left - len(event.text), 0)
                if text:
                    events.append(TextDelta(text, event.segment))
            else:
                events.append(event)
        return Piece(piece.raw, tuple(events))

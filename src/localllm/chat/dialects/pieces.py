"""What a parser has found out about a reply, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from attrs import frozen

from localllm.types import Segment, TextDelta, ToolCallDelta, ToolCallEvent

ParserEvent: TypeAlias = TextDelta | ToolCallEvent
"""What a parser tells."""


@frozen
class Piece:
    """A part of the reply that is settled.

    Args:
        raw: The text that it was; the pieces' texts, put together, are the reply.
        events: What it means; empty for marks and the white space around them.
    """

    raw: str
    events: tuple[ParserEvent, ...] = ()


class PieceLog:
    """The pieces of a reply, in order.

    Args:
        virtual: How many characters at the beginning are the prompt's, and no part of the reply.
    """

    def __init__(self, virtual: int = 0) -> None:
        self._virtual = virtual
        self._pieces: list[Piece] = []
        self._pending: list[ParserEvent] = []

    def tell(self, event: ParserEvent) -> None:
        """Add an event to the piece that is settled next."""
        self._pending.append(event)

    def say(self, text: str, segment: Segment) -> None:
        """Tell of a piece of text, if there is any."""
        if text:
            self._pending.append(TextDelta(text, segment))

    def settle(self, raw: str) -> None:
        """Settle a piece with the events that were told."""
        if self._virtual and raw:
            cut, raw = raw[: self._virtual], raw[self._virtual :]
            self._virtual -= len(cut)
            self._pending = [event for event in (_without(event, cut) for event in self._pending) if event]
        if raw or self._pending:
            self._pieces.append(Piece(raw, tuple(self._pending)))
            self._pending.clear()

    def take(self) -> tuple[Piece, ...]:
        """Return the pieces, and forget them. Events of a call that goes on come at once, without their text."""
        self.settle("")
        pieces = tuple(self._pieces)
        self._pieces.clear()
        return pieces


def _without(event: ParserEvent, cut: str) -> ParserEvent | None:
    """Return the event without text of the prompt's; None if nothing is left."""
    if not isinstance(event, TextDelta):
        return event
    text = event.text.removeprefix(cut)
    return TextDelta(text, event.segment) if text else None


def merged(pieces: Iterable[Piece]) -> list[ParserEvent]:
    """Return the events of `pieces`, neighbours of one kind in one."""
    events: list[ParserEvent] = []
    for piece in pieces:
        for event in piece.events:
            last = events[-1] if events else None
            match event, last:
                case TextDelta(), TextDelta() if event.segment == last.segment:
                    events[-1] = TextDelta(last.text + event.text, event.segment)
                case ToolCallDelta(), ToolCallDelta():
                    events[-1] = ToolCallDelta(event.index, last.arguments + event.arguments)
                case _:
                    events.append(event)
    return events

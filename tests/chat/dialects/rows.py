"""The rows of the table, tools to call, and replies taken apart, for the dialects' tests."""

from __future__ import annotations

from attrs import frozen

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects import Dialect, ReplyParser
from localllm.chat.dialects.json_text import decode_object
from localllm.chat.dialects.pieces import ParserEvent
from localllm.chat.dialects.table import GENERIC, TABLE
from localllm.messages import ToolCall
from localllm.types import TextDelta, ToolCallDelta, ToolCallEnded, ToolCallStarted

DIALECTS: dict[str, Dialect] = {row.name: Dialect(row) for row in (*(row for _, row in TABLE), GENERIC)}
"""Every dialect, by its name."""

WEATHER = ToolDefinition(
    "get_weather",
    "The weather of a town",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "options": {"type": "object", "properties": {"metric": {"type": "boolean"}}, "additionalProperties": False},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)
ADD = ToolDefinition(
    "add",
    "Adds numbers",
    {
        "type": "object",
        "properties": {"numbers": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}},
        "required": ["numbers"],
        "additionalProperties": False,
    },
)
NOW = ToolDefinition("now", "The time", {"type": "object", "properties": {}, "additionalProperties": False})
TOOLS = (WEATHER, ADD, NOW)

CALLS = (
    ToolCall("get_weather", {"city": 'São "Paulo" <P>', "days": 2, "options": {"metric": True}}, "abcdefghi"),
    ToolCall("add", {"numbers": [1.5, 2]}, "jklmnopqr"),
    ToolCall("now", {}, "stuvwxyz0"),
)
"""Calls of these, with ids as some families make them."""


@frozen
class Taken:
    """A reply taken apart.

    Args:
        text: Its text.
        thought: Its thoughts.
        calls: Its calls: name and arguments.
    """

    text: str
    thought: str
    calls: tuple[tuple[str, dict[str, JsonValue]], ...]


def plain(calls: tuple[ToolCall, ...]) -> tuple[tuple[str, dict[str, JsonValue]], ...]:
    """Return the names and arguments of calls."""
    return tuple((call.name, dict(call.arguments)) for call in calls)


def take(parser: ReplyParser, *parts: str) -> Taken:
    """Give the parts to a parser, end the reply, and hold what it told to what must hold of any reply."""
    raw, events = "", list[ParserEvent]()
    for part in parts:
        parser.feed(part)
        for piece in parser.pieces():
            raw += piece.raw
            events += piece.events
    parser.feed("", ended=True)
    for piece in parser.pieces():
        raw += piece.raw
        events += piece.events
    assert raw == "".join(parts), "a character was lost"
    assert _told(events) == parser.calls, "the events tell of other calls than there are"
    said = [event for event in events if isinstance(event, TextDelta)]
    assert all(event.text for event in said)
    return Taken(
        text="".join(event.text for event in said if event.segment == "text"),
        thought="".join(event.text for event in said if event.segment == "thought"),
        calls=plain(parser.calls),
    )


def _told(events: list[ParserEvent]) -> tuple[ToolCall, ...]:
    """Return the calls that events tell of, each of them begun, told in JSON, and ended, one after the other."""
    calls: list[ToolCall] = []
    begun: ToolCallStarted | None = None
    deltas = ""
    for event in events:
        match event:
            case TextDelta():
                begun = None  # a call that broke is told of as text
            case ToolCallStarted():
                assert event.index == len(calls)
                begun, deltas = event, ""
            case ToolCallDelta():
                assert begun is not None
                assert event.index == begun.index
                assert event.arguments
                deltas += event.arguments
            case ToolCallEnded(index=index, call=call):
                assert begun is not None
                assert (index, call.id, call.name) == (begun.index, begun.id, begun.name)
                assert decode_object(deltas) == dict(call.arguments)
                calls.append(call)
                begun = None
    return tuple(calls)

"""A tool, calls of it, and their results, as messages; for the tests of the loop of tools."""

from __future__ import annotations

from localllm import Message, ToolCall

OSLO = ToolCall("weather", {"city": "Oslo"}, "1")
ROME = ToolCall("weather", {"city": "Rome"}, "2")


def weather(city: str) -> str:
    """Tell the weather.

    Args:
        city: Where.
    """
    return f"{city}: rain"


def called(*calls: ToolCall, text: str = "") -> Message:
    """Return a message of the model that asks for calls."""
    return Message("assistant", text, tool_calls=calls)


def result(text: str, call: ToolCall = OSLO) -> Message:
    """Return a call's result."""
    return Message("tool", text, tool_call_id=call.id)

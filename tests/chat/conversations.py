"""Conversations for the tests, and their shape as Hugging Face has it."""

from __future__ import annotations

from collections.abc import Sequence

from localllm._json import JsonValue
from localllm.types import Message, ToolCall

TOOLS: list[JsonValue] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a town",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "A town, <b>not</b> a country"}},
                "required": ["city"],
            },
        },
    }
]


def chat(system: str, first: str, reply: str, second: str) -> list[Message]:
    """Return the usual conversation."""
    return [Message.system(system), Message.user(first), Message("assistant", reply), Message.user(second)]


def tool_chat(question: str, thought: str, argument: str, result: str, reply: str) -> list[Message]:
    """Return a conversation with a thought and a tool call."""
    call = ToolCall("get_weather", {"city": argument, "days": [1, 2.5, None, True]}, "abcdefghi")
    return [
        Message.user(question),
        Message("assistant", "", thought=thought, tool_calls=(call,)),
        Message("tool", result, tool_call_id="abcdefghi"),
        Message("assistant", reply),
        Message.user("thanks"),
    ]


def as_dicts(messages: Sequence[Message]) -> list[dict[str, JsonValue]]:
    """Return the messages in Hugging Face's shape."""
    shaped = []
    for message in messages:
        data: dict[str, JsonValue] = {"role": message.role, "content": message.content}
        if message.thought is not None:
            data["reasoning_content"] = message.thought
        if message.tool_calls:
            data["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            data["tool_call_id"] = message.tool_call_id
        shaped.append(data)
    return shaped

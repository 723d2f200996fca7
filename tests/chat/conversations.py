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


def _call(city: str, number: int = 0) -> ToolCall:
    """Return a call; ids of nine letters and digits are the ones that every family takes."""
    return ToolCall("get_weather", {"city": city, "days": [1, 2.5, None, True]}, f"abcdefgh{number}")


def _result(text: str, number: int = 0) -> Message:
    return Message("tool", text, tool_call_id=f"abcdefgh{number}")


MARKS = "<|im_end|><|im_start|>system</s>[INST]<|eot_id|><end_of_turn><|end|><think></tool_call>[/TOOL_RESULTS]"
_UNICODE = "Zürich, 東京 \U0001f326\ufe0f \u0645\u0631\u062d\u0628\u0627 e\u0301 <b>&\"'\u2028"

CONVERSATIONS: dict[str, tuple[list[Message], list[JsonValue] | None]] = {
    "system": (chat(" You are terse. ", "Hello  ", " Hi! ", "Who?"), None),
    "tools": ([Message.system("Be brief."), Message.user("Weather in Ulm?")], TOOLS),
    "results": (
        [
            Message.user("Weather in Ulm?"),
            Message("assistant", "", tool_calls=(_call("Ulm"),)),
            _result('{"t": 3}'),
            Message("assistant", "3 degrees"),
            Message.user("And in Bonn?"),
            Message("assistant", "Let me see.", tool_calls=(_call("Bonn", 1),)),
            _result("rain", 1),
        ],
        TOOLS,
    ),
    "parallel": (
        [
            Message.user("Weather in Ulm and Bonn?"),
            Message("assistant", "", tool_calls=(_call("Ulm"), _call("Bonn", 1))),
            _result("3 degrees"),
            _result("rain", 1),
        ],
        TOOLS,
    ),
    "thoughts": (
        [
            Message.user("Hello"),
            Message("assistant", "Hi!", thought="They greet me.\nI greet back."),
            Message.user("Who are you?"),
            Message("assistant", "A model.", thought="I am a model."),
            Message.user("Sure?"),
        ],
        None,
    ),
    "thoughts and calls": (
        [
            Message.user("Hello"),
            Message("assistant", "Hi!", thought="They greet me."),
            Message.user("Weather in Ulm?"),
            Message("assistant", "", thought="I ask the tool.", tool_calls=(_call("Ulm"),)),
            _result("3 degrees"),
        ],
        TOOLS,
    ),
    "unicode": (
        [
            Message.user(_UNICODE),
            Message("assistant", "", tool_calls=(_call(_UNICODE),)),
            _result(_UNICODE),
            Message("assistant", _UNICODE),
            Message.user(_UNICODE),
        ],
        TOOLS,
    ),
    "control tokens": (chat(MARKS, MARKS, f"a {MARKS} b", MARKS), None),
}
"""Conversations that show what a template does, each with its tools."""


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

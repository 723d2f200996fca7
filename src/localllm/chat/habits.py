"""What a chat template does with thoughts, tool calls and results: found by trying it, not by knowing its name.

Templates agree on roles and contents. Beyond that each family has its own conventions: most want the arguments of a
call as an object, some as JSON text; some write calls only where the content is none; some write no calls or no
results at all, and then a model would not see that it has called a tool. A template is shown small conversations
with values that are easy to find again, and what it puts out tells which convention is its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import evolve, frozen

from localllm._json import JsonValue

Shaped: TypeAlias = Mapping[str, JsonValue]
"""A message as a template sees it."""

Trial: TypeAlias = Callable[[Sequence[Shaped], Sequence[JsonValue]], str | None]
"""Renders messages and tools: the text, or None if the template refuses or fails."""

_REASONING = re.compile(r"[.'\"]reasoning(_content)?\b")
_THINKING = re.compile(r"[.'\"]thinking\b")
_BARE_REASONING = re.compile(r"[.'\"]reasoning\b")
_NAME = re.compile(r"message(\.name\b|\[['\"]name['\"]\]|\.get\(['\"]name['\"])")

_ID = "probe0001"  # nine letters and digits: what Mistral's templates insist on
_ARGUMENTS: Mapping[str, JsonValue] = {"probe_key": "probe argument"}
_TOOLS: Sequence[JsonValue] = [
    {
        "type": "function",
        "function": {
            "name": "probe_name",
            "description": "A tool",
            "parameters": {
                "type": "object",
                "properties": {"parameter": {"type": "string", "description": "A text"}},
                "required": ["parameter"],
            },
        },
    }
]
_USER: Shaped = {"role": "user", "content": "probe question"}
_REPLY: Shaped = {"role": "assistant", "content": "probe reply"}
_RESULT: Shaped = {"role": "tool", "content": "probe result", "tool_call_id": _ID, "name": "probe_name"}


@frozen
class Habits:
    """A template's conventions.

    Args:
        thought_keys: The names under which it is given a message's thought.
        thought_block: Whether thoughts are a part of the content, as Mistral's templates have them.
        text_arguments: Whether the arguments of calls are JSON text; else they are an object.
        no_content: What the content of a message is that has calls and no text.
        writes_calls: Whether it writes calls at all; if not, they are a part of the content.
        reads_results: Whether it knows the role "tool"; if not, results come from the user.
        wants_name: Whether results go by the tool's name rather than by the call's id.
    """

    thought_keys: tuple[str, ...] = ("reasoning_content",)
    thought_block: bool = False
    text_arguments: bool = False
    no_content: Literal[""] | None = ""
    writes_calls: bool = True
    reads_results: bool = True
    wants_name: bool = False


def thought_habits(source: str, trial: Trial) -> Habits:
    """Return how a template is given thoughts."""
    keys: tuple[str, ...] = ("reasoning_content",)
    if _THINKING.search(source):
        keys += ("thinking",)  # gpt-oss
    if _BARE_REASONING.search(source):
        keys += ("reasoning",)  # Solar
    habits = Habits(thought_keys=keys)
    if _REASONING.search(source) or not _THINKING.search(source):
        return habits
    blocks: JsonValue = [{"type": "thinking", "thinking": "probe thought"}, {"type": "text", "text": "probe reply"}]
    text = trial([_USER, {"role": "assistant", "content": blocks}, _USER], ()) or ""
    dumped = '"thinking"' in text or "'thinking'" in text  # any list is written as it is, by some
    return evolve(habits, thought_block="probe thought" in text and not dumped)


def call_habits(source: str, trial: Trial) -> Habits:
    """Return how a template is given tool calls and their results."""
    habits = Habits(wants_name=bool(_NAME.search(source)) and "tool_call_id" not in source)
    readable = False
    for no_content in ("", None):
        for text_arguments in (False, True):
            tried = evolve(habits, no_content=no_content, text_arguments=text_arguments)
            text = _with_call(trial, tried)
            if text is not None and _holds_call(text):
                return evolve(tried, reads_results=_reads_results(trial, tried))
            readable = readable or (text is not None and "probe question" in text)
    # Where nothing can be rendered the template has its reason, and the usual shape brings that to light. One that
    # writes no contents either is beyond help.
    return evolve(habits, writes_calls=False, reads_results=_reads_results(trial, habits)) if readable else habits


def _call(habits: Habits) -> Shaped:
    arguments = json.dumps(_ARGUMENTS) if habits.text_arguments else _ARGUMENTS
    function: JsonValue = {"name": "probe_name", "arguments": arguments}
    calls: JsonValue = [{"id": _ID, "type": "function", "function": function}]
    return {"role": "assistant", "content": habits.no_content, "tool_calls": calls}


def _with_call(trial: Trial, habits: Habits) -> str | None:
    call = _call(habits)
    text = trial([_USER, call, _RESULT], _TOOLS)
    return trial([_USER, call], _TOOLS) if text is None else text


def _holds_call(text: str) -> bool:
    """Tell whether the arguments are there, and not as Python's or doubly escaped text."""
    return "probe argument" in text and "{'probe_key'" not in text and '\\"probe_key' not in text


def _reads_results(trial: Trial, habits: Habits) -> bool:
    """Tell whether results arrive; a template that refuses other things as well is taken to read them."""
    text = trial([_USER, _call(habits), _RESULT], _TOOLS)
    if text is not None:
        return "probe result" in text
    return trial([_USER, _REPLY, _USER], _TOOLS) is None

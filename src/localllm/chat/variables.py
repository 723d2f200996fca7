"""Messages, tools and documents as a chat template sees them: Hugging Face's shape, with the origin of each text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field

from localllm._json import JsonValue
from localllm.chat.habits import Habits
from localllm.chat.traced import CONTENT, content, join
from localllm.errors import TemplateError
from localllm.messages import Message, ToolCall

RESULT_MARKS = ("<tool_response>\n", "\n</tool_response>")
"""What stands around a result that comes from the user, in templates without a role for tools."""


_MESSAGE_CHARS = 512  # what a message counts beyond its text: some templates look through all of them for each result


class Taker:
    """Copies values for a template: every text becomes content, and its characters are counted."""

    def __init__(self) -> None:
        self.chars: int = 0

    def text(self, value: str, origin: str = CONTENT) -> str:
        """Return `value` as content."""
        self.chars += len(value)
        return content(value, origin)

    def take(self, value: JsonValue, origin: str = CONTENT) -> object:
        """Return a copy of `value` in which every text is content.

        Raises:
            TemplateError: It is not JSON.
        """
        if isinstance(value, str):
            return self.text(value, origin)
        if isinstance(value, Mapping):
            return {self.take(key, origin): self.take(item, origin) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.take(item, origin) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise TemplateError(f"a chat template takes JSON, not a {type(value).__name__}")


@define(eq=False)
class Shaper:
    """Brings messages into the shape that one template reads.

    Args:
        taker: Copies the texts.
        thoughts: How the template is given thoughts.
        calls: How it is given calls and results.
        write_calls: Writes calls as text, for templates that write none themselves.
    """

    taker: Taker
    thoughts: Habits
    calls: Habits
    write_calls: Callable[[list[dict[str, object]]], str]
    _open: list[ToolCall] = field(init=False, factory=list)

    def shape(self, messages: Sequence[Message], origins: Sequence[str]) -> list[dict[str, object]]:
        """Return the messages; results that the user has to tell are one message where they follow each other."""
        shaped: list[dict[str, object]] = []
        told = False
        self.taker.chars += _MESSAGE_CHARS * len(messages)
        for message, origin in zip(messages, origins, strict=True):
            if message.role != "tool":
                shaped.append(self._message(message, origin))
                told = False
            elif self.calls.reads_results:
                shaped.append(self._result(message, origin))
            elif told:
                shaped[-1]["content"] = join([str(shaped[-1]["content"]), self._told(message, origin)], "\n")
            else:
                shaped.append({"role": "user", "content": self._told(message, origin)})
                told = True
        return shaped

    def _message(self, message: Message, origin: str) -> dict[str, object]:
        """Return a message; keys are there only if the message has them."""
        data: dict[str, object] = {"role": message.role, "content": self.taker.text(message.content, origin)}
        if message.thought is not None:
            self._add_thought(data, message, message.thought, origin)
        if message.tool_calls:
            self._open = list(message.tool_calls)
            self._add_calls(data, message, origin)
        return data

    def _add_thought(self, data: dict[str, object], message: Message, thought: str, origin: str) -> None:
        if self.thoughts.thought_block and message.role == "assistant":
            blocks: list[object] = [{"type": "thinking", "thinking": self.taker.text(thought, origin)}]
            if message.content:
                blocks.append({"type": "text", "text": data["content"]})
            data["content"] = blocks
            return
        for key in self.thoughts.thought_keys:
            data[key] = self.taker.text(thought, origin)

    def _add_calls(self, data: dict[str, object], message: Message, origin: str) -> None:
        calls = [self._call(call, origin) for call in message.tool_calls]
        if self.calls.writes_calls:
            data["tool_calls"] = calls
            if not message.content and data["content"] == "":
                data["content"] = self.calls.no_content
            return
        written = self.write_calls(calls)
        data["content"] = (
            join([self.taker.text(message.content, origin), written], "\n") if message.content else written
        )

    def _call(self, call: ToolCall, origin: str) -> dict[str, object]:
        arguments = self.taker.take(call.arguments, origin)
        if self.calls.text_arguments:
            arguments = content(json.dumps(arguments, ensure_ascii=False), origin)
        return {
            "id": self.taker.text(call.id, origin),
            "type": "function",
            "function": {"name": self.taker.text(call.name, origin), "arguments": arguments},
        }

    def _result(self, message: Message, origin: str) -> dict[str, object]:
        data = self._message(message, origin)
        name = self._name(message.tool_call_id)
        if message.tool_call_id is not None:
            data["tool_call_id"] = self.taker.text(message.tool_call_id, origin)
        if name is not None and (self.calls.wants_name or not message.tool_call_id):
            data["name"] = self.taker.text(name, origin)
        return data

    def _told(self, message: Message, origin: str) -> str:
        before, after = RESULT_MARKS
        return join([before, self.taker.text(message.content, origin), after])

    def _name(self, call_id: str | None) -> str | None:
        """Return the name of the tool that a result is from: by the call's id, else in the order of the calls."""
        for call in self._open:
            if call.id == (call_id or ""):
                self._open.remove(call)
                return call.name
        return self._open.pop(0).name if self._open and not call_id else None

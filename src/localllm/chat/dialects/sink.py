"""The calls of a reply while they are read: ids given, events told, arguments checked to be an object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects.json_text import decode_object, encode
from localllm.messages import ToolCall
from localllm.types import ToolCallDelta, ToolCallEnded, ToolCallEvent, ToolCallStarted


class CallSink:
    """Where a reading function puts what it finds out about a call.

    Args:
        tools: The tools that there are.
        new_id: How an id is made, with {number} and {name}.
        taken_ids: Ids of earlier calls.
        tell: Told of each event.
    """

    def __init__(
        self,
        tools: Sequence[ToolDefinition],
        new_id: str,
        taken_ids: Collection[str],
        tell: Callable[[ToolCallEvent], None],
    ) -> None:
        self.calls: list[ToolCall] = []
        self._tools = {tool.name: tool for tool in tools}
        self._new_id = new_id
        self._taken = set(taken_ids)
        self._tell = tell
        self._name = ""
        self._id = ""
        self._deltas = 0

    def knows(self, name: str) -> bool:
        """Whether there is a tool of this name."""
        return name in self._tools

    def parameters(self, name: str) -> Mapping[str, JsonValue]:
        """Return the JSON Schema of a tool's arguments; empty for an unknown one."""
        tool = self._tools.get(name)
        return tool.parameters if tool else {}

    def begin(self, name: str, own_id: str = "") -> None:
        """A call of `name` begins, with the id that the model gave it, if it did."""
        self._name = name
        self._id = own_id if own_id and own_id not in self._taken else self._make_id()
        self._deltas = 0
        self._tell(ToolCallStarted(len(self.calls), self._id, name))

    def _make_id(self) -> str:
        number = len(self._taken)
        while (made := self._new_id.format(number=number, name=self._name)) in self._taken:
            number += 1
        return made

    def piece(self, text: str) -> None:
        """A piece of its arguments has come, as JSON text."""
        self._deltas += 1
        self._tell(ToolCallDelta(len(self.calls), text))

    def end(self, text: str) -> bool:
        """The arguments are whole; False if `text` is no JSON object: there was no call, then."""
        arguments = decode_object(text)
        if arguments is None:
            return False
        if not self._deltas:
            self.piece(encode(arguments))
        call = ToolCall(self._name, arguments, self._id)
        self._tell(ToolCallEnded(len(self.calls), call))
        self._taken.add(self._id)
        self.calls.append(call)
        return True

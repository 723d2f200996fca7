"""What a model is told of the tools that it may call."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from localllm._json import JsonValue


@frozen
class ToolDefinition:
    """A tool as the model is told of it.

    Args:
        name: Its name.
        description: What it does, and when to use it.
        parameters: A JSON Schema of its arguments, which are one object.
        strict: Whether calls are held to the schema while they are made.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, JsonValue] = field(factory=lambda: {"type": "object", "properties": {}}, hash=False)
    strict: bool = True

    def to_dict(self) -> dict[str, JsonValue]:
        """Return it as chat templates expect it, which is as OpenAI's interface has it."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }

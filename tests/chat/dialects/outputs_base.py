"""A reply of a model, and what it means; and the calls that the replies in the tests make."""

from __future__ import annotations

from attrs import field, frozen

from localllm._json import JsonValue


@frozen
class Output:
    """A reply of a model.

    Args:
        dialect: The family.
        reply: The text.
        text: What of it is text.
        calls: The calls in it: name and arguments.
        thought: What of it is a thought.
        in_thought: Whether the prompt has begun a thought.
    """

    dialect: str
    reply: str
    text: str = ""
    calls: tuple[tuple[str, dict[str, JsonValue]], ...] = ()
    thought: str = field(default="", kw_only=True)
    in_thought: bool = field(default=False, kw_only=True)


def call(name: str, **arguments: JsonValue) -> tuple[str, dict[str, JsonValue]]:
    """Return a call's name and arguments."""
    return name, arguments


ROME = call("get_weather", city="Rome")
TWO_DAYS = call("get_weather", city="Rome", days=2)
SUM = call("add", numbers=[1, 2.5])
NOW = call("now")

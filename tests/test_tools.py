"""Functions as tools: what the model is told of them, how arguments reach them, and how results are told."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
from collections.abc import Callable
from typing import Annotated, Literal, TypedDict, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm import (
    ChatSession,
    FakeReply,
    InvalidOptionError,
    Tool,
    ToolCall,
    ToolDefinition,
    ToolError,
    UnsupportedSchemaError,
    tool,
)
from localllm._json import JsonValue
from localllm.tools.docstrings import described
from localllm.tools.results import failed, succeeded
from localllm.tools.tool import Toolbox, Tools
from tests.chats import chatting


class Unit(enum.Enum):
    """A unit of temperature."""

    CELSIUS = "celsius"
    KELVIN = "kelvin"


@dataclasses.dataclass
class Place:
    """Somewhere."""

    city: str
    country: str = "Norway"


@attrs.frozen
class Span:
    """Some days."""

    first: datetime.date
    days: int = attrs.field(default=1, validator=attrs.validators.ge(1))


def forecast(place: Place, span: Span, unit: Unit = Unit.CELSIUS, *, detail: Literal["low", "high"] = "low") -> str:
    """Tell how the weather will be.

    Not for the past.

    Args:
        place: Where.
        span: When,
            and how long.
        detail: How much to tell.
    """
    return f"{place} {span} {unit} {detail}"


def test_types_and_docstring_become_the_definition() -> None:
    """The name, the text without its sections, each parameter with its type, its description and its default."""
    definition = tool(forecast).definition
    assert (definition.name, definition.strict) == ("forecast", True)
    assert definition.description == "Tell how the weather will be.\n\nNot for the past."
    assert definition.parameters["required"] == ["place", "span"]
    assert definition.parameters["additionalProperties"] is False
    schema = cast("dict[str, dict[str, dict[str, object]]]", definition.parameters)
    assert list(schema["properties"]) == ["place", "span", "unit", "detail"]
    assert schema["properties"]["span"]["description"] == "When, and how long."
    assert schema["properties"]["detail"]["default"] == "low"
    assert schema["properties"]["place"] == {"$ref": "#/$defs/Place", "description": "Where."}
    assert {"Place", "Span"} <= set(schema["$defs"])
    json.dumps(definition.to_dict())


def test_arguments_become_objects_of_the_parameters_types() -> None:
    """Dataclasses, attrs classes, enums, dates; what is left out has the function's own default."""
    given_place = {"city": "Oslo"}
    called = tool(forecast).call({"place": given_place, "span": {"first": "2030-01-02", "days": 3}, "unit": "kelvin"})
    assert called == f"{Place('Oslo')} {Span(datetime.date(2030, 1, 2), 3)} {Unit.KELVIN} low"


@pytest.mark.parametrize(
    "arguments",
    [
        {"place": {"city": "Oslo"}},
        {"place": {"city": "Oslo"}, "span": {"first": "tomorrow"}},
        {"place": {"city": "Oslo"}, "span": {"first": "2030-01-02", "days": 0}},
        {"place": {"city": "Oslo"}, "span": {"first": "2030-01-02"}, "unit": "celsius", "more": 1},
    ],
)
def test_arguments_that_do_not_fit_are_an_error(arguments: dict[str, object]) -> None:
    """Missing, of the wrong form, refused by the type's own validator, or one too many."""
    with pytest.raises(ToolError, match="the arguments of forecast do not fit"):
        tool(forecast).call(arguments)  # type: ignore[arg-type]


DOCSTRINGS = {
    "google": "Add.\n\nArgs:\n    a: The first.\n    b (int): The second.\n\nReturns:\n    The sum.",
    "numpy": "Add.\n\nParameters\n----------\na : int\n    The first.\nb\n    The second.\n\nReturns\n-------\nint",
    "sphinx": "Add.\n\n:param a: The first.\n:param int b: The second.\n:returns: The sum.",
}


@pytest.mark.parametrize("style", DOCSTRINGS)
def test_docstrings_of_three_styles_are_read(style: str) -> None:
    """What is said of the function, and of each parameter; nothing of the rest."""
    found = described(DOCSTRINGS[style])
    assert found.text == "Add."
    assert dict(found.parameters) == {"a": "The first.", "b": "The second."}


@given(st.text())
def test_any_docstring_is_read(text: str) -> None:
    """What is in no style is text; nothing raises."""
    described(text)


class Shop:
    """Has a method that is a tool."""

    def buy(self, count: int = 1) -> int:
        """Buy some."""
        return count * 2


class Doubler:
    """Doubles."""

    def __call__(self, value: float) -> float:
        return value * 2


def halve(value: float, digits: int, /) -> float:
    """Halve."""
    return round(value / 2, digits)


def test_methods_objects_partials_and_classes_are_tools_too() -> None:
    """With the parameters that are left, in whatever way they are passed."""
    bought, doubled = tool(Shop().buy), tool(Doubler(), name="double")
    assert (bought.name, bought.definition.description, bought.call({"count": 3})) == ("buy", "Buy some.", 6)
    assert (doubled.definition.description, doubled.call({"value": 2.5})) == ("Doubles.", 5.0)
    assert tool(Doubler()).name == "Doubler"
    assert tool(halve).call({"value": 3.14, "digits": 1}) == 1.6
    partly = tool(functools.partial(forecast, Place("Rome"), detail="high"))
    assert partly.name == "forecast"
    assert "place" not in cast("dict[str, object]", partly.definition.parameters["properties"])
    assert "Rome" in str(partly.call({"span": {"first": "2030-01-02"}}))
    assert tool(Place).call({"city": "Bonn"}) == Place("Bonn")


def test_the_decorator_renames_and_describes() -> None:
    """With arguments and without; a session takes what it returns."""

    @tool(name="look-up", description="Looks it up.", strict=False)
    def look(word: Annotated[str, "a word"]) -> str:
        return word

    @tool
    def other() -> None:
        """Nothing."""

    assert look.definition == ToolDefinition("look-up", "Looks it up.", look.definition.parameters, False)
    assert (other.name, other.call({})) == ("other", None)
    with chatting() as (chat, _):
        ChatSession(chat.model, tools=[look, other])


def test_a_definition_of_ones_own_calls_by_name() -> None:
    """The arguments are held to its schema, and passed as they are."""
    schema: dict[str, JsonValue] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    made = Tool(ToolDefinition("count", "Count.", schema), lambda n: n + 1)
    assert made.call({"n": 1}) == 2
    with pytest.raises(ToolError, match="do not fit"):
        made.call({"n": "1"})
    with pytest.raises(UnsupportedSchemaError):
        Tool(ToolDefinition("count", "", {"not": {}}), lambda: 1)
    assert Tool(ToolDefinition("count", "", {"not": {}}, strict=False), lambda **given: len(given)).call({"a": 1}) == 1


def untyped(city):  # type: ignore[no-untyped-def]
    """Have no types."""


def starred(*cities: str) -> None:
    """Take any number."""


def keywords(**cities: str) -> None:
    """Take any names."""


def exotic(call: Callable[[], int]) -> None:
    """Take what JSON cannot hold."""


def unresolved(city: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Take what does not exist."""


async def awaited() -> str:
    """Have to be awaited."""
    return "done"


class AsyncDoubler:
    """Its calls have to be awaited."""

    async def __call__(self, value: float) -> float:
        return value * 2


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([untyped], "the parameter 'city' of the tool 'untyped' has no type; annotate it"),
        ([starred], r"the tool 'starred' takes \*cities: "),
        ([keywords], r"the tool 'keywords' takes \*\*cities: "),
        ([exotic], "the parameters of the tool 'exotic' cannot be told to a model"),
        ([unresolved], "the types of the tool 'unresolved' cannot be resolved: NameError"),
        ([lambda: 1], "a tool's name is 1 to 64 letters, digits, _ and -; got '<lambda>'"),
        ([ToolDefinition("a b")], "got 'a b'; give it one with"),
        ([ToolDefinition("a" * 65)], "1 to 64 letters"),
        ([ToolDefinition("")], "1 to 64 letters"),
        ([forecast, tool(Shop().buy, name="forecast")], "two tools have the name"),
        ([awaited], "the tool 'awaited' is a coroutine function, .* use an AsyncChatSession"),
        ([functools.partial(awaited)], "the tool 'awaited' is a coroutine function"),
        ([AsyncDoubler()], "the tool 'AsyncDoubler' is a coroutine function"),
        (["forecast"], "a tool is made of a function; got 'forecast'"),
        ("forecast", "tools must be an iterable of functions"),
        (7, "tools must be an iterable of functions"),
        ([int], "the parameters of the tool 'int' cannot be found out"),
    ],
)
def test_tools_that_cannot_be_used_are_refused_at_once(tools: Tools, message: str) -> None:
    """By the session's constructor, before anything is asked; the message names the tool and what to do."""
    with chatting() as (chat, _), pytest.raises(InvalidOptionError, match=message):
        ChatSession(chat.model, tools=tools)


def test_a_hook_has_to_fit_too() -> None:
    """No coroutine function in a plain session, and nothing that cannot be called."""

    async def hook(call: ToolCall) -> None: ...

    with chatting() as (chat, _):
        for wrong, message in ((hook, "on_tool_call is a coroutine function"), (7, "on_tool_call must be a function")):
            with pytest.raises(InvalidOptionError, match=message):
                ChatSession(chat.model, on_tool_call=wrong)  # type: ignore[arg-type]


def test_a_coroutine_that_a_plain_function_returns_is_an_error() -> None:
    """Nobody could await it, and nothing warns of it."""
    with chatting(FakeReply(tool_calls=(ToolCall("sly"),)), "Oh.", tools=[tool(lambda: awaited(), name="sly")]) as (
        chat,
        _,
    ):
        assert "only an AsyncChatSession can await it" in chat.send("hi").tool_results[0].content


class Row(TypedDict):
    """A row."""

    n: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        (None, "null"),
        (True, "true"),
        ([1, 2.5, "æ"], '[1,2.5,"æ"]'),
        ({"a": (1, None)}, '{"a":[1,null]}'),
        (Place("Oslo"), '{"city":"Oslo","country":"Norway"}'),
        (Span(datetime.date(2030, 1, 2)), '{"first":"2030-01-02","days":1}'),
        (Unit.KELVIN, '"kelvin"'),
        (Row(n=1), '{"n":1}'),
        ({3: "x"}, '{"3":"x"}'),
    ],
)
def test_results_are_told_as_text_or_json(value: object, text: str) -> None:
    """A str as it is; what is not ASCII stays readable."""
    assert succeeded(ToolCall("x"), value).content == text


@pytest.mark.parametrize("value", [object(), "a\0b", "\ud800", ["\ud800"], {1, object()}])
def test_results_that_cannot_be_told_are_errors(value: object) -> None:
    """No JSON, or no text that a model could be given."""
    told = succeeded(ToolCall("x"), value)
    assert isinstance(told.error, ToolError)
    assert told.content.startswith("error: the result of x cannot be told")


def test_a_result_that_contains_itself_is_an_error() -> None:
    """It has no end."""
    endless: list[object] = []
    endless.append(endless)
    assert isinstance(succeeded(ToolCall("x"), endless).error, ToolError)


@given(st.text(st.characters(codec=None)))
def test_any_failure_can_be_told(text: str) -> None:
    """Whatever its text holds."""
    told = failed(ToolCall("x"), ValueError(text))
    assert told.content.startswith("error: ValueError: ")
    told.content.encode()


def test_pydantic_models_are_parameters_and_results() -> None:
    """By their own rules."""
    import pydantic

    class Order(pydantic.BaseModel):
        """An order."""

        count: int = pydantic.Field(gt=0)

    def order(item: Order) -> Order:
        return Order(count=item.count + 1)

    made = tool(order)
    assert succeeded(ToolCall("order"), made.call({"item": {"count": 1}})).content == '{"count":2}'
    with pytest.raises(ToolError):
        made.call({"item": {"count": 0}})


def test_a_toolbox_finds_by_name() -> None:
    """And knows no other."""
    box = Toolbox.of([forecast], awaits=False)
    assert box.find("forecast") is box.tools[0]
    assert box.find("other") is None

"""A Python function's parameters: as a JSON Schema for the model, and back from the JSON that it sends."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import NotRequired, TypeAlias, cast

from attrs import frozen
from typing_extensions import TypedDict, get_type_hints

from localllm._json import JsonValue
from localllm.errors import InvalidOptionError, LocalLLMError
from localllm.output.forms import OutputForm, output_form
from localllm.tools.docstrings import Described, described

Function: TypeAlias = Callable[..., object]  # type: ignore[explicit-any]  # of whatever parameters it has
"""What a tool calls: a function, a method, or any other callable."""

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@frozen(eq=False)
class Signature:
    """A function's parameters.

    Args:
        form: What they are all together: a TypedDict.
        schema: Its JSON Schema, with descriptions and defaults.
        positional: The names of those that are given by their place only.
        description: What the docstring says of the function.
    """

    form: OutputForm[object]
    schema: Mapping[str, JsonValue]
    positional: tuple[str, ...]
    description: str

    def bind(self, arguments: Mapping[str, JsonValue]) -> tuple[list[object], dict[str, object]]:
        """Return a call's arguments as the function takes them; what it has a default for may be missing.

        Raises:
            LocalLLMError: They do not fit the schema.
        """
        converted = self.form.convert(arguments)
        if not isinstance(converted, dict):  # a TypedDict is nothing else
            raise TypeError(f"the arguments became {converted!r:.80}")
        by_place = [converted.pop(name) for name in self.positional if name in converted]
        return by_place, converted


def signature_of(function: Function, name: str) -> Signature:
    """Return a function's parameters.

    Args:
        function: A function, a method, or any other callable.
        name: The tool's name, for messages.

    Raises:
        InvalidOptionError: A parameter without a type, of one that JSON cannot hold, or `*args` or `**kwargs`.
    """
    docs = described(_docstring(function))
    parameters, hints = _parameters(function, name), _hints(function, name)
    fields: dict[str, object] = {}
    for parameter in parameters:
        if parameter.kind not in _NAMED:
            raise InvalidOptionError(
                f"the tool {name!r} takes {parameter}, and a model needs to know each parameter; write them out"
            )
        if parameter.name not in hints:
            raise InvalidOptionError(
                f"the parameter {parameter.name!r} of the tool {name!r} has no type; annotate it, such as "
                f"`{parameter.name}: str`"
            )
        hint = hints[parameter.name]
        fields[parameter.name] = hint if parameter.default is parameter.empty else NotRequired[hint]
    made: type[object] = TypedDict(name, fields)  # type: ignore[misc]  # made of what is known only now
    try:
        form = output_form(made)
    except LocalLLMError as exc:
        raise InvalidOptionError(f"the parameters of the tool {name!r} cannot be told to a model: {exc}") from exc
    positional = tuple(item.name for item in parameters if item.kind is item.POSITIONAL_ONLY)
    return Signature(cast("OutputForm[object]", form), _told(form.schema, parameters, docs), positional, docs.text)


def is_async(function: Function) -> bool:
    """Whether a call of `function` has to be awaited."""
    called = getattr(type(function), "__call__", None)  # noqa: B004  # its code, not whether there is any
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def name_of(function: Function) -> str:
    """Return the name of a function, also of one with some arguments given, or of an object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name if isinstance(name, str) else type(function).__name__


def _docstring(function: Function) -> str | None:
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function.__doc__
    # Not `inspect.getdoc`, which would find what Python says of any object's `__call__`.
    return getattr(_code(function), "__doc__", None) or type(function).__doc__


def _code(function: Function) -> object:
    """Return what has the annotations of a callable: the function itself, `__init__` or `__call__`."""
    if inspect.isclass(function):
        return vars(function).get("__init__", function)
    return function if inspect.isroutine(function) else getattr(type(function), "__call__", function)  # noqa: B004


def _parameters(function: Function, name: str) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as exc:
        raise InvalidOptionError(
            f"the parameters of the tool {name!r} cannot be found out: {exc}; wrap it in a function with types, or "
            "give a Tool(ToolDefinition(...), function)"
        ) from exc


def _hints(function: Function, name: str) -> Mapping[str, object]:
    while isinstance(function, functools.partial):
        function = function.func
    code = inspect.unwrap(cast("Function", _code(function)))
    code = getattr(code, "__func__", code)  # a bound method's own
    try:
        annotated = SimpleNamespace(__annotations__=dict(inspect.get_annotations(code)))
        annotated.__annotations__.pop("return", None)  # of no interest, so it may be anything
        hints: dict[str, object] = get_type_hints(
            annotated,  # anything with annotations will do
            globalns=getattr(code, "__globals__", {}),
            localns=_around(code),
            include_extras=True,
        )
    except Exception as exc:  # annotations are somebody's code, and may raise anything
        raise InvalidOptionError(
            f"the types of the tool {name!r} cannot be resolved: {type(exc).__name__}: {exc}; define them at the top "
            "of the module"
        ) from exc
    return hints


def _around(code: object) -> dict[str, object]:
    """Return what a function uses of the function around it; a type of its parameters may be among that."""
    if not inspect.isfunction(code):
        return {}
    around: dict[str, object] = {}
    for name, cell in zip(code.__code__.co_freevars, code.__closure__ or (), strict=False):
        with suppress(ValueError):  # it is not set yet
            around[name] = cell.cell_contents
    return around


def _told(
    schema: Mapping[str, JsonValue], parameters: list[inspect.Parameter], docs: Described
) -> Mapping[str, JsonValue]:
    """Return the schema with what the docstring says, and with the defaults that JSON can hold."""
    given = schema.get("properties")
    properties: dict[str, JsonValue] = {}
    for parameter in parameters:
        about = given.get(parameter.name) if isinstance(given, Mapping) else None
        told = dict(about) if isinstance(about, Mapping) else {}
        if "description" not in told and parameter.name in docs.parameters:
            told["description"] = docs.parameters[parameter.name]
        if isinstance(parameter.default, (bool, int, float, str)) and "default" not in told:
            told["default"] = parameter.default
        properties[parameter.name] = told
    return {key: value for key, value in schema.items() if key != "title"} | {"properties": properties}

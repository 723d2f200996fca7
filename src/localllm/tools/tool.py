"""A tool: what the model is told of it, and the function that runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias, overload

from attrs import evolve, field, frozen

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.errors import InvalidOptionError, LocalLLMError, ToolError
from localllm.output.forms import output_form
from localllm.tools.signature import Function, Signature, is_async, name_of, signature_of
from localllm.types import ToolCall

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@frozen(eq=False)
class Tool:
    """A function that the model can call.

    Sessions make one of any function that they are given; make it yourself, with `tool`, for another name or
    description, or here, from a definition of your own.

    Args:
        definition: What the model is told. Without a `signature` the function is called with the arguments as they
            came, by name.
        function: Runs a call; its result is told to the model, text as it is and anything else as JSON. None leaves
            calls to whoever asked: they end the turn.
        signature: How the arguments become the function's parameters.

    Raises:
        InvalidOptionError: A name that models cannot be told, or something that is no function; an InvalidSchemaError
            if the definition's parameters cannot be enforced (`strict=False` does without).
    """

    definition: ToolDefinition
    function: Function | None = None
    signature: Signature | None = field(default=None, repr=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        definition: object = self.definition  # what users pass may be anything
        if not isinstance(definition, ToolDefinition):
            raise InvalidOptionError(f"a Tool's definition must be a ToolDefinition; got {definition!r:.80}")
        name: object = definition.name
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidOptionError(
                f"a tool's name is 1 to 64 letters, digits, _ and -; got {name!r:.80}; give it one with "
                "tool(function, name=...)"
            )
        if self.function is not None and not callable(self.function):
            raise InvalidOptionError(f"the function of the tool {name!r} cannot be called: {self.function!r:.80}")
        if self.signature is None and definition.strict:
            output_form(definition.parameters)  # what could not be enforced is refused now

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    @property
    def is_async(self) -> bool:
        """Whether its calls have to be awaited."""
        return self.function is not None and is_async(self.function)

    def call(self, arguments: Mapping[str, JsonValue]) -> object:
        """Call the function with the arguments of a call.

        Raises:
            ToolError: They do not fit.
            BaseException: Whatever the function raises.
        """
        if self.function is None:
            raise ToolError(f"the tool {self.name!r} has no function")
        by_place, by_name = self._bound(arguments)
        return self.function(*by_place, **by_name)

    def _bound(self, arguments: Mapping[str, JsonValue]) -> tuple[list[object], dict[str, object]]:
        try:
            if self.signature is not None:
                return self.signature.bind(arguments)
            if self.definition.strict:
                output_form(self.definition.parameters).convert(arguments)
            return [], dict(arguments)
        except LocalLLMError as exc:
            raise ToolError(f"the arguments of {self.name} do not fit: {exc}") from exc


Tools: TypeAlias = Iterable[Tool | ToolDefinition | Function]
"""What a session takes as its tools."""


@overload
def tool(function: Function, *, name: str | None = ..., description: str | None = ..., strict: bool = ...) -> Tool: ...


@overload
def tool(
    *, name: str | None = ..., description: str | None = ..., strict: bool = ...
) -> Callable[[Function], Tool]: ...


def tool(
    function: Function | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool = True,
) -> Tool | Callable[[Function], Tool]:
    """Make a tool of a function; also a decorator, plain or with arguments.

    Args:
        function: Its parameters need types; what its docstring says of it and of them is told to the model.
        name: Its name for the model; None is the function's.
        description: What it does, and when to use it; None is what the docstring says.
        strict: Whether the model is held to the types while it writes a call.

    Raises:
        InvalidOptionError: A parameter without a type, or of one that JSON cannot hold, or a name that cannot be used.
    """
    if function is None:
        return lambda decorated: tool(decorated, name=name, description=description, strict=strict)
    given: object = function
    if not callable(given):
        raise InvalidOptionError(f"a tool is made of a function; got {given!r:.80}")
    called = name_of(function) if name is None else name
    bare = Tool(ToolDefinition(called), function)  # checks the name
    signature = signature_of(function, called)
    text = signature.description if description is None else description
    definition = ToolDefinition(called, text, signature.schema, strict)
    return evolve(bare, definition=definition, signature=signature)


@frozen
class Toolbox:
    """The tools of a session.

    Args:
        tools: The tools, no two of one name.
    """

    tools: tuple[Tool, ...] = ()

    @classmethod
    def of(cls, tools: Tools, *, awaits: bool) -> Toolbox:
        """Return the tools of a session.

        Args:
            tools: Tools, functions and definitions.
            awaits: Whether the session can await.

        Raises:
            InvalidOptionError: Something that is none, two of one name, or a coroutine function where nobody awaits.
        """
        given: object = tools  # what users pass may be anything
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise InvalidOptionError(
                f"tools must be an iterable of functions, Tools or ToolDefinitions; got {given!r:.80}"
            )
        made = tuple(_tools(tools))
        names = [item.name for item in made]
        for item in made:
            if names.count(item.name) > 1:
                raise InvalidOptionError(f"two tools have the name {item.name!r}; rename one with tool(..., name=...)")
            if item.is_async and not awaits:
                raise InvalidOptionError(
                    f"the tool {item.name!r} is a coroutine function, which a ChatSession cannot await; use an "
                    "AsyncChatSession, or give it a plain function"
                )
        return cls(made)

    @property
    def definitions(self) -> tuple[ToolDefinition, ...]:
        """What the model is told."""
        return tuple(item.definition for item in self.tools)

    def find(self, name: str) -> Tool | None:
        """Return the tool of this name, if there is one."""
        return next((item for item in self.tools if item.name == name), None)

    def runs(self, calls: tuple[ToolCall, ...]) -> bool:
        """Whether none of the calls is for whoever asked: of a tool that has no function, or of a session without any.

        A call of a tool that there is not is run, too, for the model to be told so.
        """
        found = [self.find(call.name) for call in calls]
        return bool(calls and self.tools) and all(item is None or item.function is not None for item in found)

    def check_choice(self, choice: str) -> None:
        """Raise InvalidOptionError unless `choice` is a `tool_choice` that these tools allow."""
        if choice in ("auto", "none"):
            return
        if not self.tools:
            raise InvalidOptionError(f"tool_choice={choice!r} asks for a call, and the session has no tools")
        if choice != "required" and self.find(choice) is None:
            names = ", ".join(repr(item.name) for item in self.tools)
            raise InvalidOptionError(
                f"tool_choice must be 'auto', 'none', 'required' or a tool's name ({names}); got {choice!r:.80}"
            )


def _tools(tools: Tools) -> Iterator[Tool]:
    for item in tools:
        if isinstance(item, Tool):
            yield item
        elif isinstance(item, ToolDefinition):
            yield Tool(item)
        else:
            yield tool(item)

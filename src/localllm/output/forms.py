"""What a user asks a reply to be: a type or a JSON Schema, as a grammar, and what is made of the text."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Generic, NoReturn, TypeVar, cast, get_args, get_origin, overload

from attrs import field, frozen

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidOptionError, OutputValidationError, UnsupportedSchemaError
from localllm.options import RequestOptions
from localllm.output.checks import Rules, rules_of
from localllm.output.partial_json import PartialJson
from localllm.output.plain import plain
from localllm.output.python_types import json_schema_of
from localllm.output.validation import violation

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


@frozen(eq=False)
class OutputForm(Generic[T]):
    """What a reply is to be. Made by `output_form`; equal if made of equal forms.

    Args:
        form: The type or the JSON Schema.
        schema: The JSON Schema that text is held to, with its titles and descriptions.
        grammar: What a request takes.
    """

    form: object = field()
    _rules: Rules = field(alias="rules", repr=False)
    _key: Hashable = field(alias="key", repr=False)

    @property
    def schema(self) -> Mapping[str, JsonValue]:
        """The JSON Schema that text is held to, with its titles and descriptions."""
        return self._rules.given

    @property
    def grammar(self) -> Grammar:
        """What a request takes."""
        return self._rules.grammar

    def parse(self, text: str) -> T:
        """Return what the whole text of a reply stands for.

        Args:
            text: JSON text; whitespace around it is no matter.

        Raises:
            OutputValidationError: It is no JSON, does not match the schema, or is refused by the type's own rules: an
                attrs validator, `__post_init__`, pydantic. The message and `path` say where.
        """
        return self.convert(_loads(text))

    def convert(self, value: JsonValue) -> T:
        """Return what a JSON value stands for.

        Raises:
            OutputValidationError: See `parse`.
        """
        try:
            found = violation(value, self._rules.ready, self._rules.ready)
            if found is not None:
                raise OutputValidationError(str(found), path=found.path)
            if isinstance(self.form, Mapping):
                return cast("T", value)
            from localllm.output.structuring import structured

            return cast("T", structured(value, self.form))
        except RecursionError as exc:
            raise OutputValidationError("the reply is nested too deep to be read") from exc

    def partial(self, text: str) -> JsonValue:
        """Return what is certain of a text that is not whole, as plain JSON values; None if nothing is.

        To read a stream piece by piece use a `PartialJson`, which reads each piece once.
        """
        return PartialJson().push(text)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, OutputForm) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)


@overload
def output_form(form: Mapping[str, object]) -> OutputForm[JsonValue]: ...
@overload
def output_form(form: TypeForm[T]) -> OutputForm[T]: ...
def output_form(form: Mapping[str, object] | TypeForm[T]) -> OutputForm[JsonValue] | OutputForm[T]:
    """Return what makes replies be `form`.

    Args:
        form: A JSON Schema (Draft 2020-12) as a mapping; or a type: an attrs class, a dataclass, a TypedDict, a
            NamedTuple, a pydantic model, an Enum, Literal, str, int, float, bool, None, date, time, datetime, UUID,
            Any, or a union, list, tuple, set or dict[str, ...] of those, with constraints in Annotated (those of
            annotated-types, msgspec.Meta, pydantic.Field). Date and time are ISO 8601, times with a zone.

    Raises:
        InvalidSchemaError: What cannot be enforced while text is generated (UnsupportedSchemaError), could never be
            matched (UnsatisfiableSchemaError), is too large, too deep or too costly, or is no JSON Schema.
        InvalidOptionError: `form` is neither a type nor a mapping.
    """
    given: object = form
    if isinstance(given, Mapping):
        return _form_of_schema(json.dumps(plain(given), ensure_ascii=False))
    if given is None or isinstance(given, (str, bytes, int, float, list, tuple)):
        raise InvalidOptionError(
            f"schema must be a type, such as a dataclass, or a JSON Schema as a mapping; got {given!r:.80}"
        )
    try:
        hash(given)
    except TypeError as exc:
        if get_origin(given) is Annotated and isinstance(get_args(given)[0], Hashable):
            return OutputForm(given, rules_of(json_schema_of(given)), id(given))
        raise UnsupportedSchemaError(f"{given!r:.80} is no type that can be remembered: {exc}") from exc
    return cast("OutputForm[T]", _form_of_type(given))


@lru_cache(maxsize=128)
def _form_of_schema(text: str) -> OutputForm[JsonValue]:
    schema: Mapping[str, JsonValue] = json.loads(text)
    return OutputForm(schema, rules_of(schema), text)


@lru_cache(maxsize=128)
def _form_of_type(form: Hashable) -> OutputForm[object]:
    return OutputForm(form, rules_of(json_schema_of(form)), form)


def convert(form: TypeForm[T], value: JsonValue) -> T:
    """Return `value` as what the type `form` says; see `OutputForm.convert`."""
    return output_form(form).convert(value)


def grammar_of(options: RequestOptions, form: OutputForm[T] | None = None) -> Grammar | None:
    """Return what a request's text must look like, sure to compile; None if it is free.

    Args:
        options: May have a `regex`, `choice` or `grammar`.
        form: May be given beside them by `schema=`.

    Raises:
        InvalidOptionError: Both say something, or what they say cannot be used: an InvalidSchemaError, which says why.
    """
    from localllm.output.compiled import check_grammar

    chosen = [name for name in ("regex", "choice", "grammar") if getattr(options, name) is not None]
    if chosen and form is not None:
        raise InvalidOptionError(f"schema and {chosen[0]} exclude each other; a reply follows one grammar")
    if form is not None:
        return form.grammar
    grammar: Grammar | None = None
    if options.regex is not None:
        grammar = Grammar("regex", options.regex)
    elif options.choice is not None:
        grammar = Grammar("choice", json.dumps(options.choice, ensure_ascii=False))
    elif options.grammar is not None:
        grammar = Grammar("lark", options.grammar)
    if grammar is not None:
        check_grammar(grammar)
    return grammar


def _loads(text: str) -> JsonValue:
    """Read JSON text strictly: no NaN, no Infinity, no number that a double turns into infinity."""
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as exc:
        raise OutputValidationError(f"the reply is nested too deep to be read: {text!r:.60}") from exc
    except ValueError as exc:
        raise OutputValidationError(f"the reply is no JSON: {exc}; got {text!r:.80}") from exc
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{digits:.40} is too large")
    return number

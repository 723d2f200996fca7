"""Arguments that are not written as JSON: a grammar for a JSON Schema in the family's own notation.

What a schema asks of strings, numbers, lists and objects in the usual ways is held to; what is beyond that (formats,
`allOf`, properties by pattern) is left to the check of the arguments after they were made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from localllm._json import JsonValue
from localllm.chat.dialects.json_text import encode
from localllm.chat.dialects.lark import FREE, LarkWriter, one_of, quoted, regex, sequence
from localllm.chat.dialects.literals import write_literal, write_python
from localllm.chat.dialects.syntax import CallSyntax
from localllm.chat.dialects.tape import first_part
from localllm.chat.dialects.values import kinds_of, resolved
from localllm.chat.dialects.writing import attributes_of
from localllm.chat.grammar import Grammar
from localllm.output.grammars import lark_rule

_NUMERIC = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRING = ("minLength", "maxLength", "pattern", "format")
_ALL = ("string", "number", "boolean", "null")  # what a value may be where the schema does not say

_Write: TypeAlias = Callable[[str, JsonValue], str]


class ArgumentWriter:
    """Writes the grammar of one tool's arguments.

    Args:
        writer: Where the rules go.
        rules: How the family writes calls.
        schema: The JSON Schema of the arguments.
    """

    def __init__(self, writer: LarkWriter, rules: CallSyntax, schema: JsonValue) -> None:
        self._writer = writer
        self._rules = rules
        self._root = schema
        self._referred: dict[str, str] = {}

    def arguments(self) -> str:
        """Return an expression for all arguments."""
        match self._rules.form:
            case "tagged":
                return self._marked(self._root, self._parameter)
            case "nested":
                return self._marked(self._root, self._nested)
            case "python":
                return sequence(quoted("("), self._pairs(self._root, "=", ", "), quoted(")"))
            case _:
                return self._value(self._root)

    def _marked(self, schema: JsonValue, write: _Write) -> str:
        """Return an expression for properties between marks, each of which may be missing unless it is required."""
        found: list[str] = []
        for key, below, required in _properties(schema, self._root):
            rule = self._writer.rule("parameter", write(key, below))
            found.append(rule if required else f"{rule}?")
        return sequence(*found)

    def _parameter(self, key: str, schema: JsonValue) -> str:
        """Return an expression for an argument between marks."""
        rules, writer = self._rules, self._writer
        kinds = kinds_of(schema, self._root)
        kind = "string" if kinds == {"string"} else next(iter(sorted(kinds - {"string"})), "object")
        opening = writer.text(f"{rules.param_open}{key}{attributes_of(rules, kind)}{rules.param_name_end}")
        if kinds == {"string"}:
            return sequence(opening, self._raw(schema, rules.param_close))
        return sequence(opening, self._json(schema), writer.text(rules.param_close))

    def _nested(self, key: str, schema: JsonValue) -> str:
        """Return an expression for a value between marks, in which there may be more."""
        space, writer = self._rules.namespace, self._writer
        opening, closing = writer.text(f"{space}<{key}>"), f"{space}</{key}>"
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if isinstance(reference, str):  # which may lead back to where we are
            named = f"{key} {reference}"
            if named not in self._referred:
                self._referred[named] = rule = writer.name("value")
                writer.line(f"{rule}: {self._nested(key, resolved(schema, self._root))}")
            return self._referred[named]
        kinds = kinds_of(schema, self._root)
        if kinds == {"object"}:
            return sequence(opening, self._marked(schema, self._nested), writer.text(closing))
        if kinds == {"array"}:
            items = schema.get("items") if isinstance(schema, Mapping) else None
            item = writer.rule("item", self._nested("item", items))
            return sequence(opening, f"{item}{_times(schema)}", writer.text(closing))
        if kinds == {"string"} or not kinds:
            return sequence(opening, self._raw(schema, closing))
        return sequence(opening, self._json(schema), writer.text(closing))

    def _json(self, schema: JsonValue) -> str:
        """Return the name of a rule for a value in JSON."""
        given = dict(schema) if isinstance(schema, Mapping) else {}
        root = self._root if isinstance(self._root, Mapping) else {}
        shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
        name = self._writer.name("json")
        self._writer.line(lark_rule(name, Grammar("json_schema", json.dumps({**shared, **given}))))
        return name

    def _raw(self, schema: JsonValue, closing: str) -> str:
        """Return an expression for a text as it is, up to the mark that closes it, and the mark."""
        writer = self._writer
        schema = resolved(schema, self._root)
        texts = _texts_of(schema)
        if texts:
            return sequence(one_of([writer.text(text) or '""' for text in texts]), writer.text(closing))
        ends = self._rules.namespace or first_part(closing)
        terminal = writer.without([ends], " & ".join([FREE, *_limits(schema)]))
        return writer.free_until(closing, writer.rule("RAW", terminal))

    def _value(self, schema: JsonValue) -> str:
        """Return an expression for a value in a notation that is nearly JSON."""
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if isinstance(reference, str):
            if reference not in self._referred:
                self._referred[reference] = name = self._writer.name("value")
                self._writer.line(f"{name}: {self._value(resolved(schema, self._root))}")
            return self._referred[reference]
        given: Mapping[str, JsonValue] = schema if isinstance(schema, Mapping) else {}
        values = [given["const"]] if "const" in given else given.get("enum")
        if isinstance(values, Sequence) and not isinstance(values, str):
            return one_of([self._writer.text(self._written(value)) for value in values])
        for key in ("anyOf", "oneOf"):
            options = given.get(key)
            if isinstance(options, Sequence) and not isinstance(options, str):
                return one_of([self._value(option) for option in options])
        kinds = sorted(kinds_of(given, self._root)) or list(_ALL)
        return one_of([self._of_kind(kind, given) for kind in kinds])

    def _written(self, value: JsonValue) -> str:
        return write_python(value) if self._rules.form == "python" else write_literal(value, self._rules.quotes)

    def _of_kind(self, kind: str, schema: Mapping[str, JsonValue]) -> str:
        """Return an expression for a value of one JSON type."""
        match kind:
            case "string" if self._rules.form == "python":
                return self._json({key: schema[key] for key in _STRING if key in schema} | {"type": "string"})
            case "string":
                return sequence(self._writer.text(self._rules.quotes), self._raw(schema, self._rules.quotes))
            case "number" | "integer":
                return self._json({key: schema[key] for key in _NUMERIC if key in schema} | {"type": kind})
            case "boolean":
                return one_of([quoted(self._written(value)) for value in (True, False)])
            case "array":
                item = self._writer.rule("item", self._value(schema.get("items")))
                return sequence(quoted("["), _separated(item, schema, self._comma), quoted("]"))
            case "object":
                return sequence(
                    quoted("{"), self._pairs(schema, ":" if self._comma == "," else ": ", self._comma), quoted("}")
                )
            case _:
                return quoted(self._written(None))

    @property
    def _comma(self) -> str:
        return ", " if self._rules.form == "python" else ","

    def _pairs(self, schema: JsonValue, equals: str, comma: str) -> str:
        """Return an expression for properties with commas between those that are there."""
        writer = self._writer
        rest_with, rest_without = "", ""  # what may follow, if something came before, and if nothing did
        for key, below, required in reversed(_properties(schema, self._root)):
            shown = encode(key) if self._rules.form == "python" and equals != "=" else key
            pair = writer.rule("pair", sequence(writer.text(f"{shown}{equals}"), self._value(below)))
            with_comma = writer.rule("more", sequence(quoted(comma), pair, rest_with))
            first = writer.rule("first", sequence(pair, rest_with))
            if required:
                rest_with, rest_without = with_comma, first
            else:
                rest_with = f"({with_comma} | {rest_with})" if rest_with else f"{with_comma}?"
                rest_without = f"({first} | {rest_without})" if rest_without else f"{first}?"
        return rest_without


def _properties(schema: JsonValue, root: JsonValue) -> list[tuple[str, JsonValue, bool]]:
    """Return an object's properties: key, schema, and whether it must be there."""
    schema = resolved(schema, root)
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    required = schema.get("required") if isinstance(schema, Mapping) else None
    must = {key for key in required if isinstance(key, str)} if isinstance(required, Sequence) else set()
    return [(key, below, key in must) for key, below in properties.items()] if isinstance(properties, Mapping) else []


def _texts_of(schema: JsonValue) -> list[str]:
    """Return the texts that a schema chooses from; empty if it does not."""
    if not isinstance(schema, Mapping):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return [text for text in values if isinstance(text, str)] if isinstance(values, Sequence) else []


def _limits(schema: JsonValue) -> list[str]:
    """Return terminals for what a schema asks of a string."""
    if not isinstance(schema, Mapping):
        return []
    found: list[str] = []
    low, high = schema.get("minLength"), schema.get("maxLength")
    if isinstance(low, int) or isinstance(high, int):
        found.append(regex(f"(?s:.){{{low or 0},{'' if high is None else high}}}"))
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        before = "" if pattern.startswith("^") else "(?s:.*)"
        after = "" if pattern.endswith("$") and not pattern.endswith("\\$") else "(?s:.*)"
        inner = pattern.removeprefix("^") if before == "" else pattern
        inner = inner.removesuffix("$") if after == "" else inner
        found.append(regex(f"{before}({inner}){after}"))
    return found


def _times(schema: JsonValue) -> str:
    """Return how often an item of a list may come."""
    given: Mapping[str, JsonValue] = schema if isinstance(schema, Mapping) else {}
    low, high = given.get("minItems"), given.get("maxItems")
    if low is None and high is None:
        return "*"
    return f"{{{low or 0},{'' if high is None else high}}}"


def _separated(item: str, schema: Mapping[str, JsonValue], comma: str) -> str:
    """Return an expression for the items of a list with commas between them."""
    low, high = schema.get("minItems"), schema.get("maxItems")
    least = low if isinstance(low, int) else 0
    most = high if isinstance(high, int) else None
    if most == 0:
        return ""
    more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    several = f"{item} ({quoted(comma)} {item}){more}"
    return several if least else f"({several})?"

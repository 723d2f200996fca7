"""Hostile schemas: each limit is an error of its own, soon, and never the interpreter's."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable

import pytest

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.errors import (
    InvalidOptionError,
    InvalidSchemaError,
    OutputValidationError,
    SchemaRegexError,
    SchemaTooCostlyError,
    SchemaTooDeepError,
    SchemaTooLargeError,
    UnsatisfiableSchemaError,
    UnsupportedSchemaError,
)
from localllm.output.checks import rules_of
from localllm.output.compiled import check_grammar, matches
from localllm.output.forms import output_form
from localllm.output.schema import MAX_ENUM, MAX_PROPERTIES

_Schema = dict[str, JsonValue]


def _nested(depth: int) -> _Schema:
    schema: _Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def _itself() -> _Schema:
    schema: _Schema = {}
    schema["properties"] = {"a": schema}
    return schema


def _doubling() -> _Schema:
    """A schema of 30 objects in memory and a billion written out."""
    schema: _Schema = {"type": "string"}
    for _ in range(30):
        schema = {"anyOf": [schema, schema]}
    return schema


def _multiplying() -> _Schema:
    """Three choices of thirty, all at once: 27,000 intersections."""
    branches: list[JsonValue] = [{"type": "object", "properties": {f"k{i}": {"type": "string"}}} for i in range(30)]
    return {"allOf": [{"anyOf": branches}, {"anyOf": branches}, {"anyOf": branches}]}


def _one_of_many() -> _Schema:
    return {"oneOf": [{"const": number} for number in range(200)]}


def _chain(length: int) -> _Schema:
    """References one after the other, in an order that suits no search, the last one back to the first."""
    order = list(range(length))
    random.Random(1).shuffle(order)
    steps = dict(zip(order, [*order[1:], order[0]], strict=True))
    return {"$ref": f"#/$defs/{order[0]}", "$defs": {str(at): {"$ref": f"#/$defs/{to}"} for at, to in steps.items()}}


def _tangled_one_of() -> _Schema:
    """Branches that refer to two others each, and those to two: a proof could go on for ever."""
    defs: dict[str, JsonValue] = {
        f"d{i}": {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/d{(i + 1) % 20}"}, "b": {"$ref": f"#/$defs/d{(i + 2) % 20}"}},
            "allOf": [{"properties": {"c": {"$ref": f"#/$defs/d{(i + 3) % 20}"}}}, {"required": ["a", "b", "c"]}],
            "anyOf": [{"$ref": f"#/$defs/d{(i + 4) % 20}"}, {"$ref": f"#/$defs/d{(i + 5) % 20}"}, {"type": "object"}],
        }
        for i in range(20)
    }
    last: dict[str, JsonValue] = {"type": "object"}
    return {"oneOf": [{"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d1"}], "$defs": {**defs, "d19": last}}


HOSTILE: list[tuple[Callable[[], _Schema], type[InvalidSchemaError]]] = [
    (lambda: _nested(200), SchemaTooDeepError),
    (lambda: _nested(100_000), SchemaTooDeepError),
    (_itself, SchemaTooDeepError),
    (_doubling, SchemaTooLargeError),
    (_multiplying, SchemaTooCostlyError),
    (_one_of_many, UnsupportedSchemaError),
    (lambda: _chain(4_000), UnsatisfiableSchemaError),
    (_tangled_one_of, UnsupportedSchemaError),
    (lambda: {"anyOf": [{"type": "string", "pattern": f"^a{{{i}}}$"} for i in range(1, 400)]}, SchemaTooLargeError),
    (lambda: {"description": "x" * 300_000}, SchemaTooLargeError),
    (lambda: {"enum": list(range(MAX_ENUM + 1))}, SchemaTooLargeError),
    (lambda: {"x-data": [0] * 30_000}, SchemaTooLargeError),
    (lambda: {"properties": {f"p{i}": {} for i in range(MAX_PROPERTIES + 1)}}, SchemaTooLargeError),
    (lambda: {"anyOf": [{"const": i} for i in range(6_000)]}, SchemaTooLargeError),
    (lambda: {"type": "array", "minItems": 10**9}, SchemaTooLargeError),
    (lambda: {"type": "string", "minLength": 10**9}, SchemaTooLargeError),
    (lambda: {"type": "string", "pattern": "a" * 10_000}, SchemaRegexError),
    (lambda: {"patternProperties": {"(": {}}}, SchemaRegexError),
]


@pytest.mark.parametrize(("make", "kind"), HOSTILE)
def test_a_schema_beyond_a_limit_is_refused_by_name(
    make: Callable[[], _Schema], kind: type[InvalidSchemaError]
) -> None:
    """In under five seconds (on a busy machine), and never by a RecursionError."""
    schema = make()
    started_s = time.perf_counter()
    with pytest.raises(kind):
        rules_of(schema)
    assert time.perf_counter() - started_s < 5


def _next_or_null(number: int) -> _Schema:
    return {"anyOf": [{"$ref": f"#/$defs/d{(number + 1) % 400}"}, {"type": "null"}]}


LARGE: list[_Schema] = [
    {"properties": {f"p{i}": {"type": "string", "enum": ["a", "b"]} for i in range(MAX_PROPERTIES)}},
    {"enum": [f"value {i}" for i in range(MAX_ENUM)]},
    _nested(28),
    {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"},
    {"type": "string", "pattern": "^(.*a.{20})$"},
    {"type": "string", "maxLength": 10**30},
    {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % 400}"}, {"type": "null"}]} for i in range(400)},
    },
]


@pytest.mark.parametrize("schema", LARGE, ids=range(len(LARGE)))
def test_what_is_large_and_within_the_limits_is_taken(schema: _Schema) -> None:
    """The limits leave room."""
    assert rules_of(schema).grammar.kind == "json_schema"


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        (Grammar("regex", "x" * 300_000), SchemaTooLargeError),
        (Grammar("lark", "// " + "x" * 300_000), SchemaTooLargeError),
        (Grammar("lark", "start: " + "(" * 5_000 + '"a"' + ")" * 5_000), InvalidSchemaError),
        (Grammar("json_schema", "[" * 100_000), InvalidOptionError),
        (Grammar("regex", "(" * 5_000 + "a" + ")" * 5_000), SchemaRegexError),
    ],
)
def test_a_grammar_beyond_a_limit_is_refused(grammar: Grammar, kind: type[InvalidOptionError]) -> None:
    """Regular expressions and Lark, too."""
    with pytest.raises(kind):
        check_grammar(grammar)


def test_a_schema_that_leads_back_to_itself_is_held_against_any_value() -> None:
    """A choice between itself and null is null."""
    form = output_form({"anyOf": [{"$ref": "#"}, {"type": "null"}]})
    assert form.parse("null") is None
    with pytest.raises(OutputValidationError):
        form.parse("1")


def test_a_deep_value_is_read_or_refused() -> None:
    """By an error of ours, never a RecursionError."""
    form = output_form({"type": "array", "items": {"$ref": "#"}})
    assert form.parse("[" * 100 + "]" * 100) is not None
    with pytest.raises(OutputValidationError, match="nested too deep"):
        form.parse("[" * 900 + "]" * 900)


def test_grammars_are_compiled_and_matched_from_many_threads() -> None:
    """At once, the same and different ones."""
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(20):
            form = output_form({"type": "integer", "minimum": turn % 5, "maximum": number + 10})
            reason = matches(form.grammar, json.dumps(number + turn % 5))
            expected = turn % 5 <= number + turn % 5 <= number + 10
            if (reason is None) != expected:
                wrong.append(f"{number} {turn}: {reason}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

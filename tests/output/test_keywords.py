"""JSON Schema's keywords: each is enforced, says nothing, or is refused before generation, with its path."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidSchemaError, SchemaRegexError, UnsatisfiableSchemaError, UnsupportedSchemaError
from localllm.output.checks import rules_of
from localllm.output.keywords import ANNOTATIONS, ENFORCED, REFUSED
from tests.output.validators import complaint
from tests.output.walks import accepts, walk

_Schema = Mapping[str, JsonValue]

# Of each keyword that is enforced: schemas that have it, and texts that it must keep out and let through.
ENFORCING: dict[str, list[tuple[_Schema, list[str], list[str]]]] = {
    "$ref": [({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, ['"x"'], ["1"])],
    "$defs": [({"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"const": 1}}}, ["[2]"], ["[1, 1]"])],
    "definitions": [({"$ref": "#/definitions/a", "definitions": {"a": {"type": "null"}}}, ["1"], ["null"])],
    "type": [
        ({"type": "integer"}, ["1.5", "true", '"1"'], ["-12"]),
        ({"type": ["null", "boolean"]}, ["1", '""'], ["null", "false"]),
    ],
    "const": [
        ({"const": {"b": [1, None], "a": "é"}}, ["{}", '{"b": [1, null]}'], ['{"b": [1, null], "a": "é"}']),
        ({"const": 1.5}, ["1", "2"], ["1.5"]),
    ],
    "enum": [({"enum": ["a", 2, None, [True]]}, ['"b"', "1", "true"], ['"a"', "2", "null", "[true]"])],
    "allOf": [({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, ["2", "6"], ["3", "5"])],
    "anyOf": [({"anyOf": [{"type": "integer"}, {"const": "x"}]}, ['"y"', "1.5"], ["7", '"x"'])],
    "oneOf": [({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["true", "[]"], ["7", '"x"'])],
    "properties": [
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
            ['{"a": "x"}', '{"b": 1}'],
            ['{"a": 1}', "{}"],
        ),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}},
            ['{"a": "x"}', '{"\\u0061": "x"}'],
            ['{"b": "x"}'],
        ),
    ],
    "patternProperties": [
        (
            {
                "type": "object",
                "patternProperties": {"^n_": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
            },
            ['{"n_a": "x"}', '{"b": 1}'],
            ['{"n_a": 1, "b": "x"}'],
        )
    ],
    "additionalProperties": [
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"a": "x"}'], ['{"a": 1, "b": 2}'])
    ],
    "required": [({"type": "object", "required": ["a"]}, ["{}", '{"b": 1}'], ['{"a": null}'])],
    "minProperties": [({"type": "object", "minProperties": 1}, ["{}"], ['{"a": 1}'])],
    "maxProperties": [({"type": "object", "maxProperties": 1}, ['{"a": 1, "b": 2}'], ["{}", '{"a": 1}'])],
    "prefixItems": [
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
            ['["x"]', "[1, 2]"],
            ['[1, "x"]'],
        )
    ],
    "items": [({"type": "array", "items": {"type": "boolean"}}, ["[1]", "[true, null]"], ["[]", "[true, false]"])],
    "minItems": [({"type": "array", "items": {"type": "integer"}, "minItems": 2}, ["[]", "[1]"], ["[1, 2]"])],
    "maxItems": [({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, ["[1, 2]"], ["[]", "[1]"])],
    "minLength": [({"type": "string", "minLength": 2}, ['"a"', '"😀"', '"\\n"'], ['"ab"', '"😀é"', '"\\n\\""'])],
    "maxLength": [({"type": "string", "maxLength": 1}, ['"ab"', '"\\n\\n"'], ['"😀"', '""', '"\\n"'])],
    "pattern": [
        ({"type": "string", "pattern": "^[a-c]{2}\\d$"}, ['"ab"', '"ab1x"', '"ab٣"'], ['"ac7"']),
        ({"type": "string", "pattern": "b+"}, ['"aca"'], ['"abba"', '"b"']),
    ],
    "format": [
        ({"type": "string", "format": "date"}, ['"2023-02-29"', '"x"', '"0000-01-01"'], ['"2024-02-29"']),
        (
            {"type": "string", "format": "date-time"},
            ['"2024-02-29"', '"2024-01-01T00:00:60Z"'],
            ['"2024-01-01T00:00:00.5+01:00"'],
        ),
        ({"type": "string", "format": "time"}, ['"10:00:00"', '"24:00:00Z"'], ['"10:00:00Z"']),
        ({"type": "string", "format": "date", "pattern": "^2024"}, ['"2023-01-01"'], ['"2024-01-01"']),
        ({"type": "string", "format": "uuid"}, ['"x"'], ['"123e4567-e89b-12d3-a456-426614174000"']),
        ({"type": "string", "format": "ipv4"}, ['"1.2.3.256"'], ['"1.2.3.255"']),
        ({"type": "string", "format": "ipv6"}, ['"1:2"'], ['"2001:db8::1"']),
        ({"type": "string", "format": "email"}, ['"a"', '"a b@c"'], ['"a.b@example.org"']),
        ({"type": "string", "format": "hostname"}, ['"-a"'], ['"a-1.example.org"']),
        ({"type": "string", "format": "uri"}, ['"a b"', '"/a"'], ['"https://example.org/a?b#c"']),
        ({"type": "string", "format": "duration"}, ['"1D"', '"P"'], ['"P1DT2H"']),
    ],
    "minimum": [
        ({"type": "integer", "minimum": -3}, ["-4"], ["-3", "12345678901234567890"]),
        ({"type": "number", "minimum": 0.5}, ["0.49", "0", "-1"], ["0.5", "3"]),
        ({"type": "integer", "minimum": 2**53 + 1}, [str(2**53)], [str(2**53 + 2)]),
    ],
    "maximum": [
        ({"type": "number", "maximum": 9.75}, ["9.751", "10"], ["9.75", "-3"]),
        ({"type": "integer", "maximum": 2**63 - 1}, [str(2**63)], ["1"]),
    ],
    "exclusiveMinimum": [({"type": "integer", "exclusiveMinimum": 3}, ["3"], ["4"])],
    "exclusiveMaximum": [({"type": "number", "exclusiveMaximum": 3}, ["3", "3.0"], ["2.999"])],
    "multipleOf": [
        ({"type": "integer", "multipleOf": 7, "minimum": 1}, ["8", "0"], ["7", "14"]),
        ({"type": "number", "multipleOf": 0.25}, ["0.3"], ["0.75", "2"]),
    ],
}

_CASES = [(keyword, *case) for keyword, cases in ENFORCING.items() for case in cases]


def test_every_enforced_keyword_has_its_cases() -> None:
    """So that the matrix below is whole."""
    assert set(ENFORCING) == set(ENFORCED)


@pytest.mark.parametrize(("keyword", "schema", "wrong", "right"), _CASES)
def test_what_a_keyword_forbids_is_not_generated(
    keyword: str, schema: _Schema, wrong: list[str], right: list[str]
) -> None:
    """Neither the texts that are listed, nor anything on a random walk, has a complaint by the second validator."""
    grammar = rules_of(schema).grammar
    for text in wrong:
        assert not accepts(grammar, text), f"{keyword}: {text}"
    for text in right:
        assert accepts(grammar, text), f"{keyword}: {text}"
    for seed in range(15):
        text = walk(grammar, seed) or ""
        assert not text or complaint(json.loads(text), schema) is None, text


REFUSING: dict[str, JsonValue] = {
    "not": {"type": "string"},
    "if": {"type": "string"},
    "then": {"minLength": 1},
    "else": {"minLength": 1},
    "contains": {"type": "string"},
    "minContains": 1,
    "maxContains": 1,
    "uniqueItems": True,
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "propertyNames": {"pattern": "^a"},
    "unevaluatedProperties": False,
    "unevaluatedItems": False,
    "additionalItems": False,
    "$dynamicRef": "#a",
    "$dynamicAnchor": "a",
    "$recursiveRef": "#",
    "$recursiveAnchor": True,
}


@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_a_keyword_that_cannot_be_enforced_is_refused_with_its_path(keyword: str) -> None:
    """Never dropped in silence, wherever it is; the message has the keyword and what to do."""
    schema: _Schema = {"type": "object", "properties": {"a/b": {"items": [{}, {keyword: REFUSING[keyword]}][1]}}}
    with pytest.raises(UnsupportedSchemaError, match=keyword.replace("$", r"\$")) as caught:
        rules_of(schema)
    assert caught.value.path == f"/properties/a~1b/items/{keyword}"
    assert REFUSED[keyword] in str(caught.value)


DIALECT = """
    $schema $id $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment $defs prefixItems items contains
    additionalProperties properties patternProperties dependentSchemas propertyNames if then else allOf anyOf oneOf not
    unevaluatedItems unevaluatedProperties type const enum multipleOf maximum exclusiveMaximum minimum exclusiveMinimum
    maxLength minLength pattern maxItems minItems uniqueItems maxContains minContains maxProperties minProperties
    required dependentRequired title description default deprecated readOnly writeOnly examples format contentEncoding
    contentMediaType contentSchema
"""


def test_all_keywords_of_the_dialect_are_known() -> None:
    """Those of Draft 2020-12's vocabularies; none is taken for one that nobody knows."""
    assert set(DIALECT.split()) <= set(ENFORCED) | set(REFUSED) | ANNOTATIONS


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "string", "format": "regex"}, "/format"),
        ({"format": "unknown"}, "/format"),
        ({"$ref": "https://example.org/schema"}, "/$ref"),
        ({"$ref": "#name"}, "/$ref"),
        ({"items": {"$id": "https://example.org/x"}}, "/items/$id"),
        ({"$schema": "https://example.org/dialect"}, "/$schema"),
        ({"items": [{"type": "string"}]}, "/items"),
        ({"type": "string", "maxlength": 3}, "/maxlength"),
        ({"type": "object", "require": ["a"]}, "/require"),
        ({"type": "object", "minProperties": 2}, "/minProperties"),
        ({"const": "a\x01"}, "/const"),
        ({"enum": ["a", "\x7f"]}, "/enum/1"),
        ({"const": 2**53 + 1}, "/const"),
        ({"minimum": 10**30}, "/minimum"),
        ({"multipleOf": 1e-12}, "/multipleOf"),
        (
            {
                "properties": {
                    "a": {"allOf": [{"type": "object", "maxProperties": 1, "properties": {"x": {}, "y": {}}}]}
                }
            },
            "/properties/a/allOf/0",
        ),
        ({"patternProperties": {"^a": {"type": "string"}, "b$": {"type": "integer"}}}, ""),
    ],
)
def test_what_else_cannot_be_enforced_is_refused_with_its_path(schema: _Schema, path: str) -> None:
    """Formats, references, dialects, misspelled keywords, numbers that no double holds."""
    with pytest.raises(UnsupportedSchemaError) as caught:
        rules_of(schema)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"minimum": "3"}, "/minimum"),
        ({"minimum": True}, "/minimum"),
        ({"exclusiveMinimum": True}, "/exclusiveMinimum"),
        ({"type": "text"}, "/type"),
        ({"type": None}, "/type"),
        ({"type": ["string", "string"]}, "/type"),
        ({"properties": []}, "/properties"),
        ({"properties": {"a": "string"}}, "/properties"),
        ({"required": "a"}, "/required"),
        ({"required": ["a", "a"]}, "/required"),
        ({"minLength": -1}, "/minLength"),
        ({"minLength": 1.5}, "/minLength"),
        ({"anyOf": []}, "/anyOf"),
        ({"enum": "ab"}, "/enum"),
        ({"multipleOf": 0}, "/multipleOf"),
        ({"$ref": "#/$defs/a"}, "/$ref"),
        ({"x": float("nan")}, "/x"),
        ({"x": float("inf")}, "/x"),
        ({"title": "a\ud800"}, "/title"),
        ({"title": "a\0"}, "/title"),
        ({"x": 10**400}, "/x"),
        ({"x": b"bytes"}, "/x"),
        ({"x": {1: 2}}, "/x"),
        ({"x": {"y": {3}}}, "/x/y"),
    ],
)
def test_what_is_no_json_schema_is_refused_with_its_path(schema: _Schema, path: str) -> None:
    """A keyword's value of the wrong form, and what JSON cannot hold."""
    with pytest.raises(InvalidSchemaError) as caught:
        rules_of(schema)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"type": []},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "pattern": "^aaa$", "maxLength": 2},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"type": "array", "items": False, "minItems": 1},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "string", "enum": [1, 2]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6},
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}, False]}}},
    ],
)
def test_what_nothing_could_match_is_an_error_before_generation(schema: _Schema | bool) -> None:
    """A contradiction, and a reference that never ends: no endless generation."""
    with pytest.raises(UnsatisfiableSchemaError):
        rules_of(schema)


def test_an_endless_branch_is_never_entered() -> None:
    """Where there is another way, a part that no finite value could match is as good as `false`."""
    endless: JsonValue = {"type": "object", "properties": {"next": {"$ref": "#/$defs/e"}}, "required": ["next"]}
    schema: _Schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [{"$ref": "#/$defs/e"}, {"const": 1}]}, "b": {"$ref": "#/$defs/e"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"e": endless},
    }
    rules = rules_of(schema)
    assert {walk(rules.grammar, seed) for seed in range(20)} == {'{"a": 1}'}


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)b", "(?<!a)b", r"(a)\1", r"\bword\b", "[a-z&&[^b]]", "[[:alpha:]]", "(", "a{3,1}", "a" * 5000, r"\cA"],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_its_path(pattern: str) -> None:
    """Lookaround, references back, syntax that means different things to different engines, and what is too long."""
    with pytest.raises(SchemaRegexError) as caught:
        rules_of({"properties": {"a": {"type": "string", "pattern": pattern}}})
    assert caught.value.path == "/properties/a/pattern"


PROVABLE: list[list[JsonValue]] = [
    [{"type": "string"}, {"type": "integer"}, {"type": "null"}],
    [{"const": 1}, {"const": 2}],
    [{"enum": ["a", "b"]}, {"enum": ["c"]}],
    [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 4}],
    [{"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}],
    [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 4}],
    [{"const": 5}, {"type": "integer", "maximum": 4}],
    [{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}],
    [
        {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
        {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
    ],
    [{"$ref": "#/$defs/a"}, {"type": "null"}],
    [{"anyOf": [{"const": 1}, {"const": 2}]}, {"allOf": [{"type": "integer"}, {"minimum": 3}]}],
]


@pytest.mark.parametrize("branches", PROVABLE)
def test_one_of_is_enforced_where_no_value_can_match_two_branches(branches: list[JsonValue]) -> None:
    """By their types, values, ranges, lengths, or a property that tells them apart."""
    schema: _Schema = {"oneOf": branches, "$defs": {"a": {"type": "object"}}}
    grammar = rules_of(schema).grammar
    for seed in range(30):
        text = walk(grammar, seed) or ""
        assert not text or complaint(json.loads(text), schema) is None, text


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "number"}, {"type": "integer"}],
        [{"const": 1}, {"const": 1.0}],
        [{"type": "string"}, {"type": "string", "pattern": "^a"}],
        [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 3}],
        [{"type": "object", "properties": {"k": {"const": 1}}}, {"type": "object", "properties": {"k": {"const": 2}}}],
        [
            {"properties": {"k": {"const": 1}}, "required": ["k"]},
            {"properties": {"k": {"const": 2}}, "required": ["k"]},
        ],
        [{"$ref": "#/$defs/a"}, {"type": "object"}],
    ],
)
def test_any_other_one_of_is_refused(branches: list[JsonValue]) -> None:
    """With the branches that might both match."""
    with pytest.raises(UnsupportedSchemaError, match="branches 0 and 1 might both match") as caught:
        rules_of({"items": {"oneOf": branches}, "$defs": {"a": {"type": "object"}}})
    assert caught.value.path == "/items/oneOf"


def test_what_says_nothing_is_left_out_of_the_grammar() -> None:
    """Annotations, vendors' keywords, and refused keywords with the value that means nothing; the schema keeps them."""
    schema: _Schema = {"type": "array", "title": "T", "x-order": 1, "uniqueItems": False, "tsType": "X", "default": []}
    rules = rules_of(schema)
    assert rules.grammar == Grammar("json_schema", '{"type":"array"}')
    assert rules.given == schema


def test_llguidances_own_settings_in_a_schema_are_not_obeyed() -> None:
    """`x-guidance` could turn everything off."""
    grammar = rules_of({"type": "string", "x-guidance": {"lenient": True, "whitespace_flexible": True}}).grammar
    assert "lenient" not in grammar.source
    assert not accepts(Grammar("json_schema", '{"const": 1, "x-guidance": {"lenient": true}}'), "2")

"""A few hundred JSON Schemas as people write them, and some that are refused: what a model's replies are tried on.

Each has a name, so that a test's report can say which one it was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from localllm._json import JsonValue

Schema = dict[str, JsonValue]

# Fields of the records that a small model can fill in some 10 to 20 tokens each.
_FIELDS: dict[str, Schema] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 20},
    "title": {"type": "string", "maxLength": 30, "description": "A short title."},
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "count": {"type": "integer", "minimum": 1, "maximum": 99},
    "price": {"type": "number", "minimum": 0, "maximum": 1000, "multipleOf": 0.25},
    "score": {"type": "number", "minimum": -1, "maximum": 1, "multipleOf": 0.125},
    "active": {"type": "boolean"},
    "nothing": {"type": "null"},
    "color": {"enum": ["red", "green", "blue"]},
    "size": {"enum": ["S", "M", "L", 38, 40, None]},
    "kind": {"const": "thing"},
    "day": {"type": "string", "format": "date"},
    "at": {"type": "string", "format": "date-time"},
    "opens": {"type": "string", "format": "time"},
    "id": {"type": "string", "format": "uuid"},
    "ip": {"type": "string", "format": "ipv4"},
    "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    "plate": {"type": "string", "pattern": "^[A-Z]{1,3}-[A-Z]{2} [1-9][0-9]{0,3}$"},
    "phone": {"type": "string", "pattern": "^\\+[1-9][0-9]{6,12}$"},
    "hex": {"type": "string", "pattern": "^#[0-9a-f]{6}$"},
    "slug": {"type": "string", "pattern": "^[a-z]+(?:-[a-z]+){0,2}$", "maxLength": 24},
    "percent": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 100, "multipleOf": 5},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 3},
    "point": {
        "type": "array",
        "prefixItems": [{"$ref": "#/$defs/axis"}, {"$ref": "#/$defs/axis"}],
        "items": False,
        "minItems": 2,
    },
    "maybe": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    "either": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"enum": ["none", "all"]}]},
    "straße": {"type": "string", "maxLength": 12},
    "名前": {"type": "string", "maxLength": 6},
    "emoji 😀": {"enum": ["😀", "🎉", "é"]},
    'quote"d': {"type": "boolean"},
    "a/b~c": {"type": "integer", "minimum": 0, "maximum": 5},
}
_AXIS: Schema = {"type": "integer", "minimum": -9, "maximum": 9}

_SCALARS: dict[str, Schema] = {
    "integer up": {"type": "integer", "minimum": 10, "maximum": 99},
    "integer down": {"type": "integer", "minimum": -50, "maximum": -3},
    "integer around zero": {"type": "integer", "minimum": -5, "maximum": 5},
    "integer large": {"type": "integer", "minimum": 2**40, "maximum": 2**41},
    "integer of 7": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "integer exclusive": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 4},
    "number small": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.0625},
    "number halves": {"type": "number", "minimum": -10, "maximum": 10, "multipleOf": 0.5},
    "text of 5": {"type": "string", "minLength": 5, "maxLength": 5},
    "text empty": {"type": "string", "maxLength": 0},
    "text short": {"type": "string", "minLength": 2, "maxLength": 12},
    "pattern searched": {"type": "string", "pattern": "[0-9]", "maxLength": 8},
    "pattern unicode": {"type": "string", "pattern": "^[äöüß]{2,6}$"},
    "pattern kana": {"type": "string", "pattern": "^[\u3041-\u3096]{1,5}$"},
    "pattern version": {"type": "string", "pattern": "^v[0-9]{1,2}\\.[0-9]{1,2}$"},
    "pattern words": {"type": "string", "pattern": "^(?:red|green|blue)(?: (?:red|green|blue)){0,2}$"},
    "const text": {"const": "exactly this"},
    "const list": {"const": [1, "two", None, {"three": 3.5}]},
    "enum mixed": {"enum": [0, 1.5, "a", None, True, [], {}]},
    "enum unicode": {"enum": ["grün", "мир", "愛", "🎈", 'say "hi"', "back\\slash", "new\nline"]},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    **{f"format {name}": {"type": "string", "format": name} for name in ("date", "time", "date-time", "uuid", "ipv4")},
    "format ipv6": {"type": "string", "format": "ipv6"},
    "format email": {"type": "string", "format": "email", "maxLength": 30},
    "format hostname": {"type": "string", "format": "hostname", "maxLength": 20},
    "format uri": {"type": "string", "format": "uri", "maxLength": 40},
    "format duration": {"type": "string", "format": "duration", "maxLength": 12},
    "format date in 2024": {"type": "string", "format": "date", "pattern": "^2024-"},
}

_REFERENCES: dict[str, Schema] = {
    "tree": {
        "type": "object",
        "properties": {"v": _AXIS, "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["v"],
        "additionalProperties": False,
    },
    "linked list": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"v": _AXIS, "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["v", "next"],
                "additionalProperties": False,
            }
        },
    },
    "two that take turns": {
        "$ref": "#/$defs/ping",
        "$defs": {
            "ping": {"type": "object", "properties": {"pong": {"$ref": "#/$defs/pong"}}, "additionalProperties": False},
            "pong": {"type": "object", "properties": {"ping": {"$ref": "#/$defs/ping"}}, "additionalProperties": False},
        },
    },
    "expression": {
        "$ref": "#/$defs/e",
        "$defs": {
            "e": {"oneOf": [_AXIS, {"$ref": "#/$defs/sum"}]},
            "sum": {"type": "array", "items": {"$ref": "#/$defs/e"}, "minItems": 2, "maxItems": 2},
        },
    },
    "pointer with escapes": {
        "type": "object",
        "properties": {"a/b": _AXIS, "c~d e": {"$ref": "#/properties/a~1b"}, "f": {"$ref": "#/properties/c~0d%20e"}},
        "required": ["a/b", "c~d e", "f"],
        "additionalProperties": False,
    },
    "definitions": {"type": "array", "items": {"$ref": "#/definitions/x"}, "maxItems": 3, "definitions": {"x": _AXIS}},
    "reference with more": {"$ref": "#/$defs/n", "minimum": 3, "$defs": {"n": {"type": "integer", "maximum": 7}}},
    "references in a chain": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"enum": ["end"]}},
    },
}


def _shape(kind: str, **more: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"kind": {"const": kind}, **more},
        "required": ["kind", *more],
        "additionalProperties": False,
    }


_COMBINATIONS: dict[str, Schema] = {
    "any of types": {"anyOf": [_AXIS, {"type": "boolean"}, {"type": "string", "maxLength": 5}]},
    "one of types": {"oneOf": [_AXIS, {"type": "null"}, {"enum": ["a", "b"]}]},
    "one of kinds": {"oneOf": [_shape("circle", r=_AXIS), _shape("square", side=_AXIS), _shape("point")]},
    "one of ranges": {
        "oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "integer", "minimum": 90, "maximum": 99}]
    },
    "one of constants": {"oneOf": [{"const": number} for number in range(12)]},
    "all of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 30}, {"multipleOf": 3}]},
    "all of records": {
        "allOf": [
            {"type": "object", "properties": {"a": _AXIS}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    "any of beside properties": {
        "type": "object",
        "properties": {"a": _AXIS, "b": {"type": "boolean"}},
        "additionalProperties": False,
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "list of kinds": {
        "type": "array",
        "items": {"oneOf": [_shape("a", x=_AXIS), _shape("b", y={"type": "boolean"})]},
        "minItems": 1,
        "maxItems": 3,
    },
    "enum beside type": {"type": "string", "enum": ["a", 1, "b", None]},
}

_MAPS: dict[str, Schema] = {
    "map of integers": {"type": "object", "additionalProperties": _AXIS, "maxProperties": 3},
    "map with keys of a pattern": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "maxProperties": 3,
    },
    "map that is not empty": {
        "type": "object",
        "additionalProperties": {"enum": [1, 2]},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "record and map": {
        "type": "object",
        "properties": {"first": _AXIS},
        "required": ["first"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 3,
    },
    "two patterns": {
        "type": "object",
        "patternProperties": {"^a[0-9]$": _AXIS, "^b[0-9]$": {"type": "null"}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "empty object": {"type": "object", "additionalProperties": False},
    "empty list": {"type": "array", "maxItems": 0},
    "row": {
        "type": "array",
        "prefixItems": [_AXIS, {"type": "boolean"}, {"enum": ["x"]}],
        "items": False,
        "minItems": 3,
    },
    "row and more": {
        "type": "array",
        "prefixItems": [{"enum": ["head"]}],
        "items": _AXIS,
        "minItems": 1,
        "maxItems": 4,
    },
    "matrix": {
        "type": "array",
        "items": {"type": "array", "items": _AXIS, "minItems": 2, "maxItems": 2},
        "minItems": 2,
        "maxItems": 2,
    },
}


def _record(choose: random.Random, depth: int, *, optional: bool) -> Schema:
    """An object of some of the fields; below the top, some are records of their own."""
    names = choose.sample(sorted(_FIELDS), choose.randint(2, 5 if depth == 0 else 3))
    properties: Schema = {}
    for name in names:
        nested = depth < 2 and choose.random() < 0.25
        inner: Schema = _record(choose, depth + 1, optional=optional) if nested else _FIELDS[name]
        if nested and choose.random() < 0.3:
            inner = {"type": "array", "items": inner, "minItems": 1, "maxItems": 2}
        properties[name] = inner
    required: list[JsonValue] = [name for name in names if not optional or choose.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _records(count: int) -> Iterator[tuple[str, Schema]]:
    for number in range(count):
        choose = random.Random(number)
        record = _record(choose, 0, optional=number % 2 == 0)
        yield f"record {number}", {**record, "$defs": {"axis": _AXIS}}


def taken() -> dict[str, Schema]:
    """The schemas that replies can be held to, by their names."""
    lists: dict[str, Schema] = {
        f"list of {name}": {"type": "array", "items": schema, "minItems": 1, "maxItems": 2}
        for name, schema in _SCALARS.items()
    }
    return {**_SCALARS, **lists, **_REFERENCES, **_COMBINATIONS, **_MAPS, **dict(_records(200))}


def refused() -> dict[str, tuple[Schema, str]]:
    """The schemas that are refused before generation, and the path that the error gives."""
    text: Schema = {"type": "string"}
    return {
        "not": ({"type": "object", "properties": {"a": {"not": text}}}, "/properties/a/not"),
        "if": ({"if": text, "then": {"minLength": 1}}, "/if"),
        "contains": ({"type": "array", "contains": text}, "/contains"),
        "unique items": ({"type": "array", "items": text, "uniqueItems": True}, "/uniqueItems"),
        "dependent required": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "/dependentRequired"),
        "property names": ({"type": "object", "propertyNames": {"maxLength": 3}}, "/propertyNames"),
        "unevaluated": ({"type": "object", "unevaluatedProperties": False}, "/unevaluatedProperties"),
        "format": ({"type": "string", "format": "json-pointer"}, "/format"),
        "one of overlapping": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
        "lookahead": ({"type": "string", "pattern": "^(?!a)"}, "/pattern"),
        "remote reference": ({"$ref": "https://example.org/x"}, "/$ref"),
        "many of any name": ({"type": "object", "minProperties": 3}, "/minProperties"),
        "older draft": ({"type": "array", "items": [text]}, "/items"),
        "endless": ({"$ref": "#"}, ""),
        "contradiction": ({"type": "integer", "minimum": 2, "maximum": 1}, ""),
    }

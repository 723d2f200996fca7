"""What JSON Schema's keywords are to us: enforced, no matter, or refused; and of which form their values must be.

The dialect is Draft 2020-12. What is enforced is what llguidance 1.9 enforces, found out by tests (`tests/output`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Literal

from localllm._json import JsonValue

Form = Literal[
    "schema", "schemas", "named schemas", "number", "positive number", "count", "text", "names", "type", "any"
]
"""What a keyword's value must be."""

ENFORCED: Mapping[str, Form] = {
    "$ref": "text",
    "$defs": "named schemas",
    "definitions": "named schemas",
    "type": "type",
    "const": "any",
    "enum": "any",
    "allOf": "schemas",
    "anyOf": "schemas",
    "oneOf": "schemas",
    "properties": "named schemas",
    "patternProperties": "named schemas",
    "additionalProperties": "schema",
    "required": "names",
    "minProperties": "count",
    "maxProperties": "count",
    "prefixItems": "schemas",
    "items": "schema",
    "minItems": "count",
    "maxItems": "count",
    "minLength": "count",
    "maxLength": "count",
    "pattern": "text",
    "format": "text",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "positive number",
}
"""Keywords that text is held to while it is generated, and the form of their values."""

REFUSED: Mapping[str, str] = {
    "not": "list what is allowed instead, with enum or anyOf",
    "if": "write the cases as branches of anyOf",
    "then": "write the cases as branches of anyOf",
    "else": "write the cases as branches of anyOf",
    "contains": "say what each item is, with items or prefixItems",
    "minContains": "say what each item is, with items or prefixItems",
    "maxContains": "say what each item is, with items or prefixItems",
    "uniqueItems": "remove it, and drop duplicates afterwards",
    "dependentRequired": "write the cases as branches of anyOf",
    "dependentSchemas": "write the cases as branches of anyOf",
    "dependencies": "write the cases as branches of anyOf",
    "propertyNames": "use patternProperties and additionalProperties: false",
    "unevaluatedProperties": "use additionalProperties",
    "unevaluatedItems": "use items",
    "additionalItems": "use prefixItems and items, as Draft 2020-12 has it",
    "$dynamicRef": "use $ref",
    "$dynamicAnchor": "use $ref and $defs",
    "$recursiveRef": "use $ref",
    "$recursiveAnchor": "use $ref and $defs",
}
"""Keywords that cannot be enforced, and what to do."""

ANNOTATIONS = frozenset(
    {"$anchor", "$comment", "$id", "$schema", "$vocabulary", "id", "title", "description", "default", "deprecated"}
    | {"example", "examples", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"}
    | {"discriminator", "externalDocs", "nullable", "xml"}
)
"""Keywords that say nothing about what is valid; some are OpenAPI's."""

HARMLESS: Mapping[str, JsonValue] = {"uniqueItems": False, "minContains": 0}
"""Values with which a refused keyword says nothing."""

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
"""JSON's types, as `type` names them."""

DIALECTS = ("draft/2020-12", "draft/2019-09", "draft-07", "draft-06", "draft-04")
"""Parts of the `$schema` URIs that are known. The older ones' own keywords are refused one by one."""


def misspelled(keyword: str) -> str | None:
    """Return the keyword that `keyword` was probably meant to be; None if it is just one that nobody knows."""
    folded = {known.casefold(): known for known in (*ENFORCED, *REFUSED)}
    near = difflib.get_close_matches(keyword.casefold(), folded, n=1, cutoff=0.85)
    return folded[near[0]] if near else None


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_schema(value: JsonValue) -> bool:
    return isinstance(value, (dict, bool))


def _is_type(value: JsonValue) -> bool:
    names = value if isinstance(value, list) else [value]
    known = all(isinstance(name, str) and name in TYPES for name in names)
    return known and len({str(name) for name in names}) == len(names)


_TESTS: Mapping[Form, tuple[str, Callable[[JsonValue], bool]]] = {
    "schema": ("a schema", _is_schema),
    "schemas": (
        "a list of at least one schema",
        lambda value: isinstance(value, list) and bool(value) and all(map(_is_schema, value)),
    ),
    "named schemas": (
        "an object of schemas",
        lambda value: isinstance(value, dict) and all(map(_is_schema, value.values())),
    ),
    "number": ("a number", _is_number),
    "positive number": (
        "a number above 0",
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0,
    ),
    "count": ("an integer of at least 0", _is_count),
    "text": ("a text", lambda value: isinstance(value, str)),
    "names": (
        "a list of texts, none twice",
        lambda value: (
            isinstance(value, list)
            and all(isinstance(name, str) for name in value)
            and len({str(name) for name in value}) == len(value)
        ),
    ),
    "type": (f"one of {', '.join(sorted(TYPES))}, or a list of different ones", _is_type),
    "any": ("a value", lambda value: True),
}


def wrong_form(keyword: str, value: JsonValue) -> str | None:
    """Return what an enforced keyword's value must be, if `value` is not that."""
    if keyword == "enum":
        return None if isinstance(value, list) else "a list of values"
    expected, fits = _TESTS[ENFORCED[keyword]]
    return None if fits(value) else expected

"""Arguments that are not written as JSON: what a text stands for, by the tool's schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.dialects.json_text import decode, type_of
from localllm.chat.dialects.literals import literal

_MAX_DEPTH = 32


def kinds_of(schema: JsonValue, root: JsonValue, depth: int = 8) -> set[str]:
    """Return the JSON types that `schema` lets a value have; empty if it does not say.

    Args:
        schema: A JSON Schema.
        root: What its references are looked up in.
        depth: How many references are followed.
    """
    if not isinstance(schema, Mapping) or not depth:
        return set()
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return kinds_of(_referred(reference, root), root, depth - 1)
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, Sequence):
        return {kind for kind in named if isinstance(kind, str)}
    if "const" in schema:
        return {type_of(schema["const"])}
    values = schema.get("enum")
    if isinstance(values, Sequence) and not isinstance(values, str):
        return {type_of(value) for value in values}
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, Sequence) and not isinstance(options, str):
            kinds = [kinds_of(option, root, depth - 1) for option in options]
            return set() if set() in kinds else set().union(*kinds)
    return set()


def resolved(schema: JsonValue, root: JsonValue) -> JsonValue:
    """Return what a schema refers to, if it does no more than that; else the schema."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            break
        schema = _referred(reference, root)
    return schema


def _referred(reference: str, root: JsonValue) -> JsonValue:
    """Return what a reference inside of `root` leads to; None if it leads nowhere."""
    at = root
    for part in reference.removeprefix("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(at, Mapping) or key not in at:
            return None
        at = at[key]
    return at if reference.startswith("#") else None


def parameter(parameters: JsonValue, key: str) -> JsonValue:
    """Return the schema of the parameter `key` of a tool; None if the schema does not tell."""
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return properties.get(key) if isinstance(properties, Mapping) else None


def value_of(text: str, kinds: set[str]) -> JsonValue:
    """Return what `text` stands for, if it is meant to be one of `kinds` (anything, if empty).

    A text that is nothing else is a string: the tool's schema then tells the model what it should have been.
    """
    if kinds == {"string"}:
        return text
    value = _read(text.strip())
    if value is None and text.strip() not in ("null", "None"):
        return text
    kind = type_of(value)
    fits = not kinds or kind in kinds or (kind == "number" and "integer" in kinds)
    return value if fits or "string" not in kinds else text


def _read(text: str) -> JsonValue:
    """Return what `text` says as JSON or in Python's notation; None if nothing."""
    try:
        return decode(text)
    except ValueError:
        pass
    try:
        # some families' templates show the model lists and objects as Python writes them
        return literal(text) if text[:1] in ("[", "{", "T", "F", "N", "(") else None
    except ValueError:
        return None


def nested(text: str, namespace: str, root: JsonValue, schema: JsonValue | None = None, depth: int = 0) -> JsonValue:
    """Return what marks inside of marks stand for: `<key>value</key>`, lists as `<item>value</item>`.

    Args:
        text: What stands between two marks.
        namespace: What stands before each mark.
        root: The schema of the whole.
        schema: The schema of `text`; that of the whole at first.
        depth: How deep in marks `text` is.

    Raises:
        ValueError: Marks that do not fit.
    """
    schema = root if not depth else schema
    kinds = kinds_of(schema, root)
    if not depth and not text.strip():
        return {}
    if not text.lstrip().startswith(f"{namespace}<"):
        return value_of(text, kinds) if text.strip() or "string" in kinds else _empty(kinds)
    found: list[tuple[str, JsonValue]] = []
    while text := text.strip():
        opened = re.match(re.escape(namespace) + r"<([^<>/\s]+)>", text)
        if not opened or depth > _MAX_DEPTH:
            raise ValueError(f"no mark where one must be: {text[:40]!r}")
        inner, text = _inner(text[opened.end() :], namespace, opened[1])
        below = _below(schema, root, opened[1])
        found.append((opened[1], nested(inner, namespace, root, below, depth + 1)))
    if {key for key, _ in found} == {"item"} and "object" not in kinds:
        return [value for _, value in found]
    return dict(found)


def _inner(text: str, namespace: str, key: str) -> tuple[str, str]:
    """Return what stands before the mark that closes `key`, and what stands behind it."""
    opening, closing = f"{namespace}<{key}>", f"{namespace}</{key}>"
    level, at = 1, 0
    while level:
        close = text.find(closing, at)
        if close < 0:
            raise ValueError(f"{key!r:.40} is not closed")
        level += text.count(opening, at, close) - 1
        at = close + len(closing)
    return text[: at - len(closing)], text[at:]


def _below(schema: JsonValue, root: JsonValue, key: str) -> JsonValue:
    """Return the schema of a property or of an item."""
    if isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        schema = _referred(reference, root)
    below = parameter(schema, key)
    return schema.get("items") if below is None and key == "item" and isinstance(schema, Mapping) else below


def _empty(kinds: set[str]) -> JsonValue:
    """Return what nothing at all stands for."""
    empty: dict[str, JsonValue] = {"object": {}, "array": []}
    return next((value for kind, value in empty.items() if kind in kinds), "")

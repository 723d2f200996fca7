"""A JSON Schema made ready for generation: checked, and written in the words that are enforced.

What comes out means the same or less: annotations are gone, `oneOf` with branches that cannot both match is `anyOf`,
dates are patterns, bounds beyond what a double holds exactly are rounded inwards, every `$ref` leads to `#` or to
`#/$defs`, and what refers to itself without end is `false`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import unquote

from attrs import define, field

from localllm._json import JsonValue
from localllm.errors import InvalidSchemaError, SchemaTooLargeError, UnsatisfiableSchemaError, UnsupportedSchemaError
from localllm.output.disjoint import merge_one_of
from localllm.output.endless import without_endless
from localllm.output.formats import FORMATS, PATTERNS
from localllm.output.keywords import (
    ANNOTATIONS,
    DIALECTS,
    ENFORCED,
    HARMLESS,
    REFUSED,
    TYPES,
    misspelled,
    wrong_form,
)
from localllm.output.numbers import check_exact, inward
from localllm.output.patterns import check_pattern
from localllm.output.plain import plain, pointer

Schema = dict[str, JsonValue]

MAX_NODES = 5_000
"""Subschemas of a schema, each `$ref`'s target counted once."""
MAX_PROPERTIES = 400
"""Properties of one object: llguidance gives up on objects with more than 500 optional ones."""
MAX_PATTERNS = 300
"""Different regular expressions of a schema; each is compiled by itself, which takes some milliseconds."""
MAX_ENUM = 5_000
"""Values of one `enum`."""
MAX_COUNT = 1_000_000
"""A higher `maxLength`, `maxItems` or `maxProperties` means this; no reply is as long."""

_KEPT_TOGETHER = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
)
_LISTS = ("prefixItems", "items", "minItems", "maxItems")
_APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf", "const", "enum")


def normalized(schema: object) -> Schema:
    """Return the form of `schema` that text can be held to.

    Raises:
        UnsupportedSchemaError: A keyword that cannot be enforced; the message has its path.
        UnsatisfiableSchemaError: Nothing could match it.
        SchemaRegexError: A pattern that cannot be used.
        SchemaTooLargeError, SchemaTooDeepError: It is beyond the limits.
        InvalidSchemaError: It is no JSON Schema.
    """
    root = plain(schema)
    if root is False:
        raise UnsatisfiableSchemaError("the schema is false: nothing could ever match it")
    if root is True:
        return {}
    _check_dialect(root.get("$schema"))
    writer = _Writer(root)
    written = writer.write()
    return merge_one_of(without_endless(written))


def canonical(schema: Mapping[str, JsonValue]) -> str:
    """Return `schema` as JSON text, in the order it has: properties are generated in that order."""
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _check_dialect(dialect: JsonValue) -> None:
    if dialect is None:
        return
    if not isinstance(dialect, str) or not any(known in dialect for known in DIALECTS):
        raise UnsupportedSchemaError(
            f"the schema's dialect is not known: {dialect!r:.80}; use Draft 2020-12", path="/$schema"
        )


@define(eq=False)
class _Writer:
    """Writes one schema anew."""

    root: Schema
    _names: dict[str, str] = field(factory=dict, init=False)  # JSON pointer of a $ref's target to its name in $defs
    _taken: set[str] = field(factory=set, init=False)
    _patterns: set[str] = field(factory=set, init=False)
    _waiting: list[str] = field(factory=list, init=False)
    _nodes: int = field(default=0, init=False)

    def write(self) -> Schema:
        written = self._node(self.root, "")
        result: Schema = written if isinstance(written, dict) else {}
        defs: Schema = {}
        while self._waiting:
            target = self._waiting.pop(0)
            defs[self._names[target]] = self._node(self._found(target), target)
        return {**result, "$defs": defs} if defs else result

    def _node(self, node: JsonValue, path: str) -> Schema | bool:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SchemaTooLargeError(f"the schema has more than {MAX_NODES:,} subschemas", path=path)
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict):
            raise InvalidSchemaError(f"{path}: a schema must be an object or a bool; got {node!r:.80}", path=path)
        for keyword, value in node.items():
            _check_keyword(keyword, value, pointer(path, keyword), node)
        written: Schema = {}
        for keyword in _ordered(node):
            self._keyword(keyword, node[keyword], pointer(path, keyword), written)
        _check_count(written, path)
        _add_format(node, written, path)
        return written

    def _keyword(self, keyword: str, value: JsonValue, path: str, written: Schema) -> None:
        """Put `keyword` into `written`."""
        match keyword, value:
            case "$ref", str():
                written["$ref"] = self._ref(value, path)
            case (("allOf" | "anyOf" | "oneOf" | "prefixItems"), list()):
                written[keyword] = [self._node(item, pointer(path, index)) for index, item in enumerate(value)]
            case (("properties" | "patternProperties"), dict()):
                if len(value) > MAX_PROPERTIES:
                    raise SchemaTooLargeError(
                        f"{path} has {len(value):,} properties; at most {MAX_PROPERTIES} can be enforced", path=path
                    )
                if keyword == "patternProperties":
                    for pattern in value:
                        self._pattern(pattern, pointer(path, pattern))
                written[keyword] = {name: self._node(item, pointer(path, name)) for name, item in value.items()}
            case (("additionalProperties" | "items"), _):
                written[keyword] = self._node(value, path)
            case "pattern", str():
                self._pattern(value, path)
                written[keyword] = value
            case (("const" | "enum"), _):
                written[keyword] = _values(keyword, value, path)
            case (("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf"), int() | float()):
                written[keyword] = inward(keyword, value, path)
            case (("maxLength" | "maxItems" | "maxProperties"), int()):
                written[keyword] = min(value, MAX_COUNT)
            case (("minLength" | "minItems" | "minProperties"), int()):
                if value > MAX_COUNT:
                    raise SchemaTooLargeError(f"{path} asks for {value:,}; no reply is as long", path=path)
                written[keyword] = value
            case _:
                written[keyword] = value

    def _pattern(self, pattern: str, path: str) -> None:
        self._patterns.add(pattern)
        if len(self._patterns) > MAX_PATTERNS:
            raise SchemaTooLargeError(f"the schema has more than {MAX_PATTERNS} different patterns", path=path)
        check_pattern(pattern, path)

    def _ref(self, ref: str, path: str) -> str:
        """Return the reference to use in place of `ref`; its target is written once, into $defs."""
        if ref == "#":
            return "#"
        if not ref.startswith("#/"):
            _unsupported(
                f'{path} refers to {ref!r:.80}; only references within the schema are known, such as "#/$defs/name"',
                path,
            )
        target = unquote(ref[1:])
        if target not in self._names:
            self._found(target, path)
            name = target.rsplit("/", 1)[1] if target.startswith(("/$defs/", "/definitions/")) else "ref"
            base = "".join(char if char.isascii() and char.isalnum() else "_" for char in name)[:40] or "ref"
            plain_name, number = base, len(self._taken)
            while plain_name in self._taken:
                plain_name, number = f"{base}_{number}", number + 1
            self._taken.add(plain_name)
            self._names[target] = plain_name
            self._waiting.append(target)
        return f"#/$defs/{self._names[target]}"

    def _found(self, target: str, path: str = "") -> JsonValue:
        """Return what the JSON pointer `target` leads to."""
        at: JsonValue = self.root
        for part in target.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(at, dict) and name in at:
                at = at[name]
            elif isinstance(at, list) and name.isdecimal() and int(name) < len(at):
                at = at[int(name)]
            else:
                raise InvalidSchemaError(f"{path} refers to #{target}, which is not there", path=path)
        return at


def _check_keyword(keyword: str, value: JsonValue, path: str, node: Schema) -> None:
    if keyword in ENFORCED:
        expected = wrong_form(keyword, value)
        if expected is None:
            return
        if keyword == "items" and isinstance(value, list):
            _unsupported(f"{path} is a list, as older drafts have it; use prefixItems", path)
        raise InvalidSchemaError(f"{path} must be {expected}; got {value!r:.80}", path=path)
    if keyword in REFUSED:
        if keyword in HARMLESS and HARMLESS[keyword] == value and type(HARMLESS[keyword]) is type(value):
            return
        _unsupported(f"{path}: {keyword} cannot be enforced while text is generated; {REFUSED[keyword]}", path)
    if keyword == "$id" and path != "/$id":
        _unsupported(f"{path}: a schema within a schema that has its own $id is not known; use $defs", path)
    if keyword in ANNOTATIONS or keyword.startswith("x-"):
        return
    meant = misspelled(keyword)
    if meant is not None and meant not in node:
        _unsupported(f"{path}: there is no keyword {keyword}; is it {meant}?", path)


def _ordered(node: Schema) -> list[str]:
    """Return the keywords of `node` that are enforced, those that llguidance must see together side by side."""
    order: list[str] = []
    for keyword in node:
        if keyword not in ENFORCED or keyword in ("$defs", "definitions", "format") or keyword in order:
            continue
        group = next((group for group in (_KEPT_TOGETHER, _LISTS) if keyword in group), (keyword,))
        order += [member for member in group if member in node]
    simple = [keyword for keyword in order if keyword not in _APPLICATORS]
    if "properties" in order or not simple:
        return order
    return simple + [keyword for keyword in order if keyword in _APPLICATORS]


def _values(keyword: str, value: JsonValue, path: str) -> JsonValue:
    """Return the value of `const` or `enum`, if it can be written."""
    if keyword == "const":
        check_exact(value, path)
        return value
    if not isinstance(value, list) or not value:
        raise UnsatisfiableSchemaError(f"{path} is empty: nothing could ever match it", path=path)
    if len(value) > MAX_ENUM:
        raise SchemaTooLargeError(f"{path} has {len(value):,} values; at most {MAX_ENUM:,} are taken", path=path)
    for index, item in enumerate(value):
        check_exact(item, pointer(path, index))
    return value


def _check_count(written: Schema, path: str) -> None:
    """Refuse a `minProperties` that a key given twice would seem to reach."""
    least = written.get("minProperties", 0)
    required = written.get("required", [])
    if not isinstance(least, int) or not isinstance(required, list) or least <= max(1, len(required)):
        return
    if written.get("additionalProperties", True) is not False or "patternProperties" in written:
        _unsupported(
            f"{path}/minProperties: at least {least} properties of any name cannot be enforced; name them in required",
            f"{path}/minProperties",
        )


def _add_format(node: Schema, written: Schema, path: str) -> None:
    """Write a format as what enforces it; on types that are no string it says nothing."""
    name = node.get("format")
    given = node.get("type", sorted(TYPES))
    types = given if isinstance(given, list) else [given]
    if not isinstance(name, str) or "string" not in types:
        return
    if name not in FORMATS:
        _unsupported(
            f"{path}/format: {name!r:.80} cannot be enforced; known are {', '.join(sorted(FORMATS))}", f"{path}/format"
        )
    if name not in PATTERNS:
        written["format"] = name
    elif "pattern" not in written:
        written["pattern"] = PATTERNS[name]
    else:
        others = written.get("allOf", [])
        written["allOf"] = [*(others if isinstance(others, list) else []), {"pattern": PATTERNS[name]}]


def _unsupported(message: str, path: str) -> NoReturn:
    raise UnsupportedSchemaError(message, path=path)

"""A JSON value held against a schema that was made ready by `localllm.output.schema`.

Text that was generated under the schema has been held to it already; other text has not: that of a backend without
grammars, a tool's arguments, a script's. Strings' patterns and formats go by llguidance, as in generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from decimal import Decimal

from attrs import frozen

from localllm._json import JsonValue
from localllm.output.formats import PATTERNS
from localllm.output.patterns import fits_format, fits_pattern
from localllm.output.plain import pointer


@frozen
class Violation:
    """What is wrong with a value.

    Args:
        path: Where, as a JSON pointer.
        what: What is wrong there.
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path or 'the value'}: {self.what}"


def violation(
    value: JsonValue,
    schema: JsonValue,
    root: Mapping[str, JsonValue],
    path: str = "",
    *,
    seen: Set[str] = frozenset(),
) -> Violation | None:
    """Return the first thing wrong with `value`, or None.

    Args:
        value: A JSON value.
        schema: What it is to be; made ready.
        root: The schema whose `$defs` references lead to.
        path: Where `value` is, as a JSON pointer.
        seen: References that led here from the same value.
    """
    if isinstance(schema, bool):
        return None if schema else Violation(path, "nothing is allowed here")
    if not isinstance(schema, Mapping):
        return Violation(path, "the schema is none")
    return (
        _wrong_type(value, schema, path)
        or _wrong_literal(value, schema, path)
        or _wrong_kind(value, schema, root, path)
        or _wrong_combination(value, schema, root, path, seen)
    )


def equal(left: JsonValue, right: JsonValue) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, but not true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(equal(item, right[key]) for key, item in left.items())
    if _is_list(left) and _is_list(right):
        pairs = (_items(left), _items(right))
        return len(pairs[0]) == len(pairs[1]) and all(map(equal, *pairs))
    return left == right and _is_list(left) == _is_list(right)


def types_of(value: JsonValue) -> tuple[str, ...]:
    """Return the names of `value`'s type; an integer is a number, too, and so is 1.0 an integer."""
    match value:
        case None:
            return ("null",)
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("integer", "number") if value.is_integer() else ("number",)
        case str():
            return ("string",)
        case Mapping():
            return ("object",)
        case _:
            return ("array",)


def _wrong_type(value: JsonValue, schema: Mapping[str, JsonValue], path: str) -> Violation | None:
    if "type" not in schema:
        return None
    given = schema["type"]
    allowed = given if isinstance(given, list) else [given]
    if any(name in allowed for name in types_of(value)):
        return None
    return Violation(path, f"must be {' or '.join(map(str, allowed))}; got {value!r:.60}")


def _wrong_literal(value: JsonValue, schema: Mapping[str, JsonValue], path: str) -> Violation | None:
    if "const" in schema and not equal(value, schema["const"]):
        return Violation(path, f"must be {schema['const']!r:.60}; got {value!r:.60}")
    if "enum" in schema and not any(equal(value, item) for item in _items(schema["enum"])):
        return Violation(path, f"must be one of {schema['enum']!r:.120}; got {value!r:.60}")
    return None


def _wrong_kind(
    value: JsonValue, schema: Mapping[str, JsonValue], root: Mapping[str, JsonValue], path: str
) -> Violation | None:
    match value:
        case bool() | None:
            return None
        case int() | float():
            return _wrong_number(value, schema, path)
        case str():
            return _wrong_text(value, schema, path)
        case Mapping():
            return _wrong_object(value, schema, root, path)
        case _:
            return _wrong_list(value, schema, root, path)


def _wrong_number(value: float, schema: Mapping[str, JsonValue], path: str) -> Violation | None:
    low, high = _number(schema, "minimum"), _number(schema, "maximum")
    above, below = _number(schema, "exclusiveMinimum"), _number(schema, "exclusiveMaximum")
    if low is not None and value < low:
        return Violation(path, f"must be at least {low}; got {value!r:.40}")
    if high is not None and value > high:
        return Violation(path, f"must be at most {high}; got {value!r:.40}")
    if above is not None and value <= above:
        return Violation(path, f"must be above {above}; got {value!r:.40}")
    if below is not None and value >= below:
        return Violation(path, f"must be below {below}; got {value!r:.40}")
    factor = _number(schema, "multipleOf")
    if factor is not None and not _is_multiple(value, factor):
        return Violation(path, f"must be a multiple of {factor}; got {value!r:.40}")
    return None


def _is_multiple(value: float, factor: float) -> bool:
    """Whether `value` is `factor` some times, as the two are written: 0.3 is three times 0.1."""
    numbers = [Decimal(repr(number)) for number in (value, factor)]
    if not all(number.is_finite() for number in numbers):
        return False
    scale = max(0, *(-int(number.as_tuple().exponent) for number in numbers))
    whole, part = (int(number.scaleb(scale)) for number in numbers)
    return whole % part == 0


def _wrong_text(value: str, schema: Mapping[str, JsonValue], path: str) -> Violation | None:
    least, most = _number(schema, "minLength"), _number(schema, "maxLength")
    if least is not None and len(value) < least:
        return Violation(path, f"must have at least {least} characters; got {value!r:.60}")
    if most is not None and len(value) > most:
        return Violation(path, f"must have at most {most} characters; got {value!r:.60}")
    pattern, name = schema.get("pattern"), schema.get("format")
    if isinstance(pattern, str) and not fits_pattern(pattern, value):
        known = next((f"be of the format {name}" for name, text in PATTERNS.items() if text == pattern), None)
        return Violation(path, f"must {known or f'match {pattern!r:.80}'}; got {value!r:.60}")
    if isinstance(name, str) and not fits_format(name, value):
        return Violation(path, f"must be of the format {name}; got {value!r:.60}")
    return None


def _wrong_object(
    value: Mapping[str, JsonValue], schema: Mapping[str, JsonValue], root: Mapping[str, JsonValue], path: str
) -> Violation | None:
    for name in _items(schema.get("required", [])):
        if name not in value:
            return Violation(path, f"must have {name!r:.60}; got {sorted(value)!r:.80}")
    least, most = _number(schema, "minProperties"), _number(schema, "maxProperties")
    if least is not None and len(value) < least:
        return Violation(path, f"must have at least {least} properties; got {len(value)}")
    if most is not None and len(value) > most:
        return Violation(path, f"must have at most {most} properties; got {len(value)}")
    named, patterns = _object(schema, "properties"), _object(schema, "patternProperties")
    for key, item in value.items():
        rules = [rule for pattern, rule in patterns.items() if fits_pattern(pattern, key)]
        rules += [named[key]] if key in named else []
        for rule in rules or [schema.get("additionalProperties", True)]:
            if rule is False:
                return Violation(path, f"must not have {key!r:.60}")
            found = violation(item, rule, root, pointer(path, key))
            if found is not None:
                return found
    return None


def _wrong_list(
    value: JsonValue, schema: Mapping[str, JsonValue], root: Mapping[str, JsonValue], path: str
) -> Violation | None:
    items = _items(value)
    least, most = _number(schema, "minItems"), _number(schema, "maxItems")
    if least is not None and len(items) < least:
        return Violation(path, f"must have at least {least} items; got {len(items)}")
    if most is not None and len(items) > most:
        return Violation(path, f"must have at most {most} items; got {len(items)}")
    prefix = _items(schema.get("prefixItems", []))
    for index, item in enumerate(items):
        rule = prefix[index] if index < len(prefix) else schema.get("items", True)
        found = violation(item, rule, root, pointer(path, index))
        if found is not None:
            return found
    return None


def _wrong_combination(
    value: JsonValue, schema: Mapping[str, JsonValue], root: Mapping[str, JsonValue], path: str, seen: Set[str]
) -> Violation | None:
    for rule in _items(schema.get("allOf", [])):
        found = violation(value, rule, root, path, seen=seen)
        if found is not None:
            return found
    if "anyOf" in schema:
        wrong: list[Violation] = []
        for rule in _items(schema["anyOf"]):
            found = violation(value, rule, root, path, seen=seen)
            if found is None:
                break
            wrong.append(found)
        else:
            deepest = max(wrong, key=lambda found: len(found.path), default=Violation(path, "nothing is allowed here"))
            return Violation(deepest.path, f"{deepest.what} (the nearest of {len(wrong)} choices)")
    if "$ref" in schema:
        ref = str(schema["$ref"])
        if ref in seen:  # a way that leads back here has told nothing new
            return Violation(path, "refers to itself")
        return violation(value, resolved(ref, root), root, path, seen={*seen, ref})
    return None


def resolved(ref: str, root: Mapping[str, JsonValue]) -> JsonValue:
    """Return what a reference in a schema that was made ready leads to."""
    return root if ref == "#" else _object(root, "$defs").get(ref.removeprefix("#/$defs/"), False)


def _number(schema: Mapping[str, JsonValue], keyword: str) -> float | None:
    value = schema.get(keyword)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _object(schema: Mapping[str, JsonValue], keyword: str) -> Mapping[str, JsonValue]:
    value = schema.get(keyword, {})
    return value if isinstance(value, Mapping) else {}


def _is_list(value: JsonValue) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _items(value: JsonValue) -> Sequence[JsonValue]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else []

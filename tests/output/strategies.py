"""hypothesis: JSON Schemas together with values that match them."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from hypothesis import strategies as st

from localllm._json import JsonValue

# Generated text has no control characters but \b \f \n \r \t.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from('\b\f\n\r\t"\\/'), max_size=8)
names = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@frozen
class Case:
    """A schema and what matches it."""

    schema: dict[str, JsonValue]
    instances: st.SearchStrategy[JsonValue]


def _eighths(count: int) -> float:
    return count / 8


def _integers() -> st.SearchStrategy[Case]:
    def case(bounds: tuple[int, int]) -> Case:
        low, high = sorted(bounds)
        return Case({"type": "integer", "minimum": low, "maximum": high}, st.integers(low, high))

    ends = st.integers(-(10**6), 10**6)
    return st.tuples(ends, ends).map(case) | st.just(Case({"type": "integer"}, st.integers(-(2**70), 2**70)))


def _numbers() -> st.SearchStrategy[Case]:
    def case(bounds: tuple[int, int]) -> Case:
        low, high = (bound / 8 for bound in sorted(bounds))
        inside = st.integers(*sorted(bounds)).map(_eighths)
        return Case({"type": "number", "minimum": low, "maximum": high}, inside)

    ends = st.integers(-8000, 8000)
    free = st.floats(allow_nan=False, allow_infinity=False)
    return st.tuples(ends, ends).map(case) | st.just(Case({"type": "number"}, free))


def _strings() -> st.SearchStrategy[Case]:
    def case(lengths: tuple[int, int]) -> Case:
        low, high = sorted(lengths)
        schema: dict[str, JsonValue] = {"type": "string", "minLength": low, "maxLength": high}
        return Case(
            schema, texts.filter(lambda text: low <= len(text) <= high) | texts.map(lambda t: (t + "é" * 9)[:high])
        )

    lengths = st.integers(0, 8)
    pattern = Case(
        {"type": "string", "pattern": "^[a-f]{1,3}-\\d+$"}, st.from_regex(r"[a-f]{1,3}-[0-9]{1,4}", fullmatch=True)
    )
    day = Case({"type": "string", "format": "date"}, st.dates().map(lambda date: date.isoformat()))
    name = Case({"type": "string", "format": "uuid"}, st.uuids().map(str))
    return st.tuples(lengths, lengths).map(case) | st.sampled_from(
        [pattern, day, name, Case({"type": "string"}, texts)]
    )


_json = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.integers(-999, 999).map(_eighths) | texts
_values: st.SearchStrategy[JsonValue] = st.recursive(
    _json, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=5
)


def _literals() -> st.SearchStrategy[Case]:
    def case(values: list[JsonValue]) -> Case:
        return Case({"enum": values}, st.sampled_from(values))

    return st.lists(_values, min_size=1, max_size=4).map(case)


def _lists(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def case(item: Case, counts: tuple[int, int]) -> Case:
        low, high = sorted(counts)
        schema: dict[str, JsonValue] = {"type": "array", "items": item.schema, "minItems": low, "maxItems": high}
        return Case(schema, st.lists(item.instances, min_size=low, max_size=high).map(list))

    def row(items: list[Case]) -> Case:
        prefix: list[JsonValue] = [item.schema for item in items]
        schema: dict[str, JsonValue] = {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(items)}
        return Case(schema, st.tuples(*(item.instances for item in items)).map(list))

    counts = st.tuples(st.integers(0, 3), st.integers(0, 3))
    return st.builds(case, inner, counts) | st.lists(inner, min_size=1, max_size=3).map(row)


def _objects(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def case(members: dict[str, Case], optional: list[bool]) -> Case:
        wanted = [name for name, may in zip(members, optional, strict=False) if not may]
        others = [name for name in members if name not in wanted]
        schema: dict[str, JsonValue] = {
            "type": "object",
            "properties": {name: member.schema for name, member in members.items()},
            "required": list(wanted),
            "additionalProperties": False,
        }
        fixed = {name: members[name].instances for name in wanted}
        made = st.fixed_dictionaries(fixed, optional={name: members[name].instances for name in others})
        ordered: Callable[[dict[str, JsonValue]], JsonValue] = lambda value: {  # noqa: E731
            name: value[name] for name in members if name in value
        }
        return Case(schema, made.map(ordered))

    members = st.dictionaries(names, inner, max_size=4)
    return st.builds(case, members, st.lists(st.booleans(), min_size=4, max_size=4))


def _maps(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def case(item: Case) -> Case:
        schema: dict[str, JsonValue] = {"type": "object", "additionalProperties": item.schema}
        return Case(schema, st.dictionaries(names, item.instances, max_size=3).map(dict))

    return inner.map(case)


def _unions(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def case(branches: list[Case]) -> Case:
        schemas: list[JsonValue] = [branch.schema for branch in branches]
        return Case({"anyOf": schemas}, st.one_of([branch.instances for branch in branches]))

    return st.lists(inner, min_size=1, max_size=3).map(case)


_SIMPLE: list[Case] = [
    Case({"type": "null"}, st.none()),
    Case({"type": "boolean"}, st.booleans()),
    Case({}, _values),
    Case({"type": ["string", "null"]}, st.none() | texts),
]

leaves = st.sampled_from(_SIMPLE) | _integers() | _numbers() | _strings() | _literals()

cases: st.SearchStrategy[Case] = st.recursive(
    leaves,
    lambda inner: _lists(inner) | _objects(inner) | _maps(inner) | _unions(inner),
    max_leaves=6,
)
"""Schemas, nested, with values that match them."""

values = _values
"""Any JSON values."""


def as_generated(value: JsonValue) -> JsonValue:
    """Return a value with whole numbers as int: generation writes literals, and the ends of a range, without `.0`."""
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            return {name: as_generated(item) for name, item in value.items()}
        case list():
            return [as_generated(item) for item in value]
        case _:
            return value

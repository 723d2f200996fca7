"""`oneOf` as `anyOf`, where no value can match two of its branches; elsewhere it is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice

from attrs import define, field

from localllm._json import JsonValue
from localllm.errors import UnsupportedSchemaError
from localllm.output.keywords import TYPES
from localllm.output.plain import pointer
from localllm.output.validation import resolved, violation

Schema = dict[str, JsonValue]

_MAX_BRANCHES = 128
_MAX_STEPS = 12  # of references and branches that one proof follows
_MAX_CONJUNCTS = 32
_MAX_WORK = 50_000  # comparisons for one `oneOf`


def merge_one_of(schema: Schema) -> Schema:
    """Return `schema` with `anyOf` for each `oneOf`.

    Raises:
        UnsupportedSchemaError: Two branches that one value might match.
    """
    merged = _merged(schema, schema, "")
    return merged if isinstance(merged, dict) else {}


def _merged(node: JsonValue, root: Schema, path: str) -> JsonValue:
    if not isinstance(node, dict):
        return node
    result: Schema = {}
    for keyword, value in node.items():
        here = pointer(path, keyword)
        match keyword, value:
            case (("properties" | "patternProperties" | "$defs"), dict()):
                result[keyword] = {name: _merged(item, root, pointer(here, name)) for name, item in value.items()}
            case (("allOf" | "anyOf" | "oneOf" | "prefixItems"), list()):
                result[keyword] = [_merged(item, root, pointer(here, index)) for index, item in enumerate(value)]
            case (("items" | "additionalProperties"), _):
                result[keyword] = _merged(value, root, here)
            case _:
                result[keyword] = value
    if "oneOf" not in result:
        return result
    _prove(node["oneOf"], root, f"{path}/oneOf")
    if "anyOf" not in result:
        return {("anyOf" if keyword == "oneOf" else keyword): value for keyword, value in result.items()}
    also: JsonValue = {"anyOf": result.pop("oneOf")}
    others = result.get("allOf", [])
    return {**result, "allOf": [*(others if isinstance(others, list) else []), also]}


def _prove(branches: JsonValue, root: Schema, path: str) -> None:
    listed = branches if isinstance(branches, list) else []
    if len(listed) > _MAX_BRANCHES:
        raise UnsupportedSchemaError(f"{path} has {len(listed)} branches; at most {_MAX_BRANCHES} can be", path=path)
    prover = _Prover(root)
    for (first, left), (second, right) in combinations(enumerate(listed), 2):
        if not prover.disjoint(left, right, _MAX_STEPS):
            raise UnsupportedSchemaError(
                f"{path}: branches {first} and {second} might both match one value, which cannot be ruled out while "
                "text is generated; use anyOf, or give both a required property with a different const",
                path=path,
            )


@define(eq=False)
class _Prover:
    """Shows that schemas have no value in common, as long as it does not take too much work.

    Args:
        root: Whose `$defs` references lead to.
    """

    root: Schema
    _work: int = field(default=0, init=False)

    def disjoint(self, left: JsonValue, right: JsonValue, steps: int) -> bool:
        """Whether no value matches both; False where that cannot be shown."""
        if left is False or right is False:
            return True
        if steps == 0 or not isinstance(left, dict) or not isinstance(right, dict):
            return False
        lefts, rights = (list(islice(self._conjuncts(one, steps), _MAX_CONJUNCTS)) for one in (left, right))
        if any(self._apart(one, other, steps) for one in lefts for other in rights):
            return True
        return self._split_apart(lefts, right, steps) or self._split_apart(rights, left, steps)

    def _split_apart(self, conjuncts: list[Schema], other: Schema, steps: int) -> bool:
        """Whether all branches of some conjunct's `anyOf` or `oneOf` are disjoint from `other`."""
        return any(
            name in one and all(self.disjoint(branch, other, steps - 1) for branch in _list(one, name))
            for one in conjuncts
            for name in ("anyOf", "oneOf")
        )

    def _conjuncts(self, node: JsonValue, steps: int) -> Iterator[Schema]:
        """Yield the schemas that a value which matches `node` matches each."""
        if not isinstance(node, dict) or steps == 0:
            return
        yield node
        for item in _list(node, "allOf"):
            yield from self._conjuncts(item, steps - 1)
        if "$ref" in node:
            yield from self._conjuncts(resolved(str(node["$ref"]), self.root), steps - 1)

    def _apart(self, left: Schema, right: Schema, steps: int) -> bool:
        self._work += 1
        if self._work > _MAX_WORK:
            return False
        shared = _types(left) & _types(right)
        if not shared:
            return True
        if _literals_fail(left, right, self.root) or _literals_fail(right, left, self.root):
            return True
        if shared <= {"integer", "number"}:
            return _ranges_apart(left, right, ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
        if shared == {"string"}:
            return _ranges_apart(left, right, ("minLength",), ("maxLength",))
        if shared == {"object"}:
            names = dict.fromkeys(str(name) for node in (left, right) for name in _list(node, "required"))
            return any(self.disjoint(_property(left, name), _property(right, name), steps - 1) for name in names)
        return shared == {"array"} and self._lists_apart(left, right, steps)

    def _lists_apart(self, left: Schema, right: Schema, steps: int) -> bool:
        if _ranges_apart(left, right, ("minItems",), ("maxItems",)):
            return True
        counts = [node.get("minItems", 0) for node in (left, right)]
        shared = min(max(count for count in counts if isinstance(count, int)), _MAX_STEPS)
        return any(self.disjoint(_item(left, index), _item(right, index), steps - 1) for index in range(shared))


def _types(node: Schema) -> set[str]:
    given = node.get("type", sorted(TYPES))
    names = {str(name) for name in (given if isinstance(given, list) else [given])}
    return names | {"integer"} if "number" in names else names


def _literals_fail(left: Schema, right: Schema, root: Schema) -> bool:
    """Whether `left` lists its values, and none of them is in `right`."""
    if "const" in left:
        return violation(left["const"], right, root) is not None
    return "enum" in left and all(violation(value, right, root) is not None for value in _list(left, "enum"))


def _ranges_apart(left: Schema, right: Schema, lows: tuple[str, ...], highs: tuple[str, ...]) -> bool:
    return _above(left, right, lows, highs) or _above(right, left, lows, highs)


def _above(upper: Schema, lower: Schema, lows: tuple[str, ...], highs: tuple[str, ...]) -> bool:
    for low in lows:
        for high in highs:
            least, most = upper.get(low), lower.get(high)
            if isinstance(least, (int, float)) and isinstance(most, (int, float)):
                touching = least == most and (low.startswith("exclusive") or high.startswith("exclusive"))
                if least > most or touching:
                    return True
    return False


def _item(node: Schema, index: int) -> JsonValue:
    prefix = _list(node, "prefixItems")
    return prefix[index] if index < len(prefix) else node.get("items", True)


def _property(node: Schema, name: str) -> JsonValue:
    named = node.get("properties", {})
    if isinstance(named, Mapping) and name in named:
        return named[name]
    return True if "patternProperties" in node else node.get("additionalProperties", True)


def _list(node: Schema, keyword: str) -> list[JsonValue]:
    value = node.get(keyword, [])
    return value if isinstance(value, list) else []

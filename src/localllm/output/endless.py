"""Schemas that refer to themselves: the parts that no finite text could match are made `false`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from localllm._json import JsonValue
from localllm.errors import UnsatisfiableSchemaError
from localllm.output.keywords import TYPES

Schema = dict[str, JsonValue]


def without_endless(schema: Schema) -> Schema:
    """Return `schema` with `false` for what no finite value can match.

    Raises:
        UnsatisfiableSchemaError: None can match all of it.
    """
    defs = _defs(schema)
    if not any(_references(schema)):
        return schema
    nodes: dict[str, JsonValue] = {
        "#": _without_defs(schema),
        **{f"#/$defs/{name}": node for name, node in defs.items()},
    }
    ends = _ending(nodes)
    if "#" not in ends:
        raise UnsatisfiableSchemaError(
            "the schema refers to itself without end: no finite value could ever match it; make the way back optional"
        )
    root = _pruned(nodes["#"], ends)
    kept = {name: _pruned(node, ends) for name, node in defs.items() if f"#/$defs/{name}" in ends}
    result: Schema = dict(root) if isinstance(root, dict) else {}
    return {**result, "$defs": kept} if kept else result


def _ending(nodes: Mapping[str, JsonValue]) -> set[str]:
    """Return the references whose schemas some finite value may match: each is looked at again when one it needs is."""
    users: dict[str, set[str]] = {ref: set() for ref in nodes}
    for user, node in nodes.items():
        for ref in _references(node):
            users.setdefault(ref, set()).add(user)
    ends: set[str] = set()
    waiting = list(nodes)
    while waiting:
        ref = waiting.pop()
        if ref not in ends and _ends(nodes[ref], ends):
            ends.add(ref)
            waiting += users[ref]
    return ends


def _references(node: JsonValue) -> Iterator[str]:
    if isinstance(node, dict):
        ref = node.get("$ref")
        if isinstance(ref, str):
            yield ref
        for item in node.values():
            yield from _references(item)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def _ends(node: JsonValue, ends: Set[str]) -> bool:
    """Whether some finite value may match `node`, if those that `ends` refers to have one."""
    if not isinstance(node, dict):
        return node is True
    if "$ref" in node and node["$ref"] not in ends:
        return False
    if not all(_ends(item, ends) for item in _list(node, "allOf")):
        return False
    if any(name in node and not any(_ends(item, ends) for item in _list(node, name)) for name in ("anyOf", "oneOf")):
        return False
    if "const" in node or "enum" in node:
        return True
    given = node.get("type", sorted(TYPES))
    types = given if isinstance(given, list) else [given]
    return any(_type_ends(str(name), node, ends) for name in types)


def _type_ends(name: str, node: Mapping[str, JsonValue], ends: Set[str]) -> bool:
    if name == "array":
        least = node.get("minItems", 0)
        prefix = _list(node, "prefixItems")
        count = least if isinstance(least, int) else 0
        more = count > len(prefix)
        return all(_ends(item, ends) for item in prefix[:count]) and (not more or _ends(node.get("items", True), ends))
    if name == "object":
        named = node.get("properties", {})
        properties = named if isinstance(named, dict) else {}
        others = True if "patternProperties" in node else node.get("additionalProperties", True)
        return all(_ends(properties.get(str(key), others), ends) for key in _list(node, "required"))
    return True


def _pruned(node: JsonValue, ends: Set[str]) -> JsonValue:
    if not isinstance(node, dict):
        return node
    if not _ends(node, ends):
        return False
    pruned: Schema = {}
    for keyword, value in node.items():
        match keyword, value:
            case (("properties" | "patternProperties"), dict()):
                pruned[keyword] = {name: _pruned(item, ends) for name, item in value.items()}
            case (("anyOf" | "oneOf"), list()):
                pruned[keyword] = [_pruned(item, ends) for item in value if _ends(item, ends)]
            case (("allOf" | "prefixItems"), list()):
                pruned[keyword] = [_pruned(item, ends) for item in value]
            case (("items" | "additionalProperties"), _):
                pruned[keyword] = _pruned(value, ends)
            case _:
                pruned[keyword] = value
    return pruned


def _list(node: Mapping[str, JsonValue], keyword: str) -> list[JsonValue]:
    value = node.get(keyword, [])
    return value if isinstance(value, list) else []


def _defs(schema: Schema) -> Schema:
    defs = schema.get("$defs", {})
    return defs if isinstance(defs, dict) else {}


def _without_defs(schema: Schema) -> Schema:
    return {keyword: value for keyword, value in schema.items() if keyword != "$defs"}

"""Classes of pydantic, which describes and validates them itself; it is imported only where there is one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from localllm._json import JsonValue
from localllm.errors import UnsupportedSchemaError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Schema = dict[str, JsonValue]


def schema_of(form: type[object], new_name: Callable[[str], str]) -> tuple[Schema, Schema]:
    """Return pydantic's schema of `form`, and its definitions under names of ours.

    Its objects are closed where it leaves that open: what the model does not know it would ignore.

    Raises:
        UnsupportedSchemaError: pydantic cannot describe it.
    """
    try:
        schema: Schema = _adapter(cast("Hashable", form)).json_schema(mode="validation", ref_template="#/$defs/{model}")
    except Exception as exc:  # pydantic has classes of its own, and runs the user's code
        raise UnsupportedSchemaError(f"pydantic cannot describe {form!r:.80} as JSON Schema: {exc}") from exc
    defs = schema.pop("$defs", {})
    named = defs if isinstance(defs, dict) else {}
    names = {f"#/$defs/{name}": f"#/$defs/{new_name(name)}" for name in named}
    moved = {names[f"#/$defs/{name}"].removeprefix("#/$defs/"): _closed(node, names) for name, node in named.items()}
    closed = _closed(schema, names)
    return (closed if isinstance(closed, dict) else {}), moved


def validated(form: type[object], value: JsonValue) -> object:
    """Return what pydantic makes of a JSON value.

    Raises:
        pydantic.ValidationError: It is not what the model wants.
    """
    return _adapter(cast("Hashable", form)).validate_python(value)


@lru_cache(maxsize=128)
def _adapter(form: Hashable) -> TypeAdapter[object]:
    from pydantic import TypeAdapter

    return TypeAdapter(cast("type[object]", form))


def _closed(node: JsonValue, names: dict[str, str]) -> JsonValue:
    if isinstance(node, list):
        return [_closed(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    result: Schema = {keyword: _closed(value, names) for keyword, value in node.items()}
    ref = node.get("$ref")
    if isinstance(ref, str):
        result["$ref"] = names.get(ref, ref)
    if node.get("type") == "object" and isinstance(node.get("properties"), dict):
        result.setdefault("additionalProperties", False)
    return result

"""What `Annotated` says of a type, as JSON Schema: annotated-types, msgspec.Meta, pydantic.Field and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from localllm._json import JsonValue
from localllm.errors import UnsupportedSchemaError

Schema = dict[str, JsonValue]

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_LENGTHS = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
_NOT_EXPRESSED = ("Predicate", "Not", "Timezone", "Unit", "AfterValidator", "BeforeValidator", "WrapValidator")


def constrained(schema: Schema, metadata: Iterable[object], path: str) -> Schema:
    """Return `schema` with what `metadata` adds; what says nothing known is left to those who know it.

    Raises:
        UnsupportedSchemaError: A constraint that JSON Schema cannot express, such as a predicate.
    """
    result = dict(schema)
    for item in _flat(metadata):
        if isinstance(item, str):
            result.setdefault("description", item)
        elif type(item).__name__ in _NOT_EXPRESSED and _is_known(item):
            raise UnsupportedSchemaError(f"{path}: {item!r:.80} cannot be expressed as JSON Schema", path=path)
        elif _is_known(item):
            _add(result, item, path)
    return result


def _flat(metadata: Iterable[object]) -> Iterator[object]:
    """Yield the constraints, those that come in groups one by one."""
    for item in metadata:
        if _module(item) == "pydantic":
            described: object = getattr(item, "description", None)
            inner: object = getattr(item, "metadata", None)
            if isinstance(inner, list):  # a FieldInfo
                yield from _flat([described, *inner] if isinstance(described, str) else inner)
                continue
        if getattr(item, "__is_annotated_types_grouped_metadata__", False) and isinstance(item, Iterable):
            yield from _flat(item)
        else:
            yield item


def _is_known(item: object) -> bool:
    return _module(item) in ("annotated_types", "msgspec", "pydantic", "typing_extensions", "annotated_doc", "typing")


def _module(item: object) -> str:
    return type(item).__module__.split(".")[0]


def _add(schema: Schema, item: object, path: str) -> None:
    for name, keyword in _BOUNDS.items():
        bound: object = getattr(item, name, None)
        if bound is not None:
            if not isinstance(bound, (int, float)) or isinstance(bound, bool):
                raise UnsupportedSchemaError(f"{path}: the bound {bound!r:.60} is no number", path=path)
            schema[keyword] = bound
    factor: object = getattr(item, "multiple_of", None)
    if isinstance(factor, (int, float)):
        schema["multipleOf"] = factor
    for name, index in (("min_length", 0), ("max_length", 1)):
        length: object = getattr(item, name, None)
        if isinstance(length, int) and not (index == 0 and length == 0):
            schema[_length_keywords(schema, path)[index]] = length
    pattern: object = getattr(item, "pattern", None)
    if isinstance(pattern, str):
        schema["pattern"] = pattern
    for name, keyword in (("description", "description"), ("documentation", "description"), ("title", "title")):
        text: object = getattr(item, name, None)
        if isinstance(text, str):
            schema[keyword] = text


def _length_keywords(schema: Schema, path: str) -> tuple[str, str]:
    """Return the keywords that bound a length; of a choice of types, those of the one that has a length."""
    branches = schema.get("anyOf", [])
    for candidate in (schema, *(branches if isinstance(branches, list) else [])):
        name = candidate.get("type") if isinstance(candidate, dict) else None
        if isinstance(name, str) and name in _LENGTHS:
            return _LENGTHS[name]
        if name == "object":
            return ("minProperties", "maxProperties")
    raise UnsupportedSchemaError(f"{path}: a length is asked of what has none", path=path)

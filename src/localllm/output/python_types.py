"""A Python type as a JSON Schema."""

from __future__ import annotations

import collections.abc
import datetime
import enum
import operator
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn, TypeGuard, cast, get_args, get_origin

import typing_extensions
from attrs import define, field

from localllm._json import JsonValue
from localllm.errors import UnsupportedSchemaError
from localllm.output.constraints import constrained
from localllm.output.members import description_of, has_members, is_pydantic, members_of, type_arguments

Schema = dict[str, JsonValue]

_SIMPLE: Mapping[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    type(None): {"type": "null"},
    object: {},
    typing.Any: {},
    datetime.datetime: {"type": "string", "format": "date-time"},
    datetime.date: {"type": "string", "format": "date"},
    datetime.time: {"type": "string", "format": "time"},
    uuid.UUID: {"type": "string", "format": "uuid"},
}

_LISTS = frozenset(
    {list, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable}
    | {collections.abc.Collection, collections.abc.Set, collections.abc.MutableSet}
)
_MAPPINGS = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})


def json_schema_of(form: object) -> Schema:
    """Return the JSON Schema of a Python type.

    Classes are closed: they have the properties of their fields and no others, required unless they have a default, in
    the fields' order. Classes used within are in `$defs`, so that they may refer to themselves and each other.

    Args:
        form: A type; what kinds are known is told in `output_form`.

    Raises:
        UnsupportedSchemaError: A type that JSON Schema cannot express; the message has its place.
    """
    return _Describer().whole(form)


@define(eq=False)
class _Describer:
    """Describes one type, and collects the classes it meets."""

    _root: object = field(default=None, init=False)
    _names: dict[object, str] = field(factory=dict, init=False)
    _defs: Schema = field(factory=dict, init=False)

    def whole(self, form: object) -> Schema:
        self._root = form
        origin = get_origin(form) or form
        path = _name(form)
        if is_pydantic(form):
            schema = self._pydantic(form)
        elif has_members(origin):
            schema = self._class(form, path)
        else:
            self._root = self  # equal to no type: nothing refers back to a root that is no class
            schema = self.describe(form, path)
        return {**schema, "$defs": self._defs} if self._defs else schema

    def describe(self, form: object, path: str) -> Schema:
        """Return the schema of `form`, which is at `path` of the whole type."""
        try:
            if form in _SIMPLE:
                return dict(_SIMPLE[form])
        except TypeError:  # it has no hash: metadata of Annotated may have none
            pass
        origin, arguments = get_origin(form), get_args(form)
        if origin is typing.Annotated or origin is typing_extensions.Annotated:
            return constrained(self.describe(arguments[0], path), arguments[1:], path)
        if origin is Literal or origin is typing_extensions.Literal:
            return _literal(arguments, path)
        if origin is typing.Union or origin is types.UnionType:
            return {"anyOf": [self.describe(item, path) for item in arguments]}
        if isinstance(form, typing.NewType):
            return self.describe(form.__supertype__, path)
        if _is_enum(form):
            return _enumeration(form, path)
        if is_pydantic(form) or has_members(origin or form):
            return self._reference(form, path)
        if _is_alias(origin or form):
            return self._alias(form, path)
        return self._collection(form, path)

    def _collection(self, form: object, path: str) -> Schema:
        origin, arguments = get_origin(form) or form, get_args(form)
        if origin is tuple:
            return self._tuple(arguments, path)
        if origin in _LISTS:
            items = {"items": self.describe(arguments[0], f"{path}[]")} if arguments else {}
            return {"type": "array", **items}
        if origin in _MAPPINGS:
            if arguments and arguments[0] is not str:
                _refuse(f"{path}: the keys of a JSON object are str, not {_name(arguments[0])}", path)
            if not arguments:
                return {"type": "object"}
            return {"type": "object", "additionalProperties": self.describe(arguments[1], f"{path}[]")}
        if isinstance(form, (str, typing.ForwardRef)):
            _refuse(f"{path}: the name {form!r} is not resolved; give the type itself", path)
        return _refuse(
            f"{path}: {_name(form)} cannot be expressed as JSON; use a dataclass, an attrs class, a TypedDict, a "
            "NamedTuple, a pydantic model, an Enum, Literal, str, int, float, bool, None, date, time, datetime, UUID, "
            "or a union, list, tuple, set or dict[str, ...] of those",
            path,
        )

    def _tuple(self, arguments: Sequence[object], path: str) -> Schema:
        if len(arguments) == 2 and arguments[1] is ...:
            return {"type": "array", "items": self.describe(arguments[0], f"{path}[]")}
        if not arguments:
            return {"type": "array"}
        items: list[JsonValue] = [self.describe(item, f"{path}[{index}]") for index, item in enumerate(arguments)]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def _reference(self, form: object, path: str) -> Schema:
        """Return a reference to a class, which is described once."""
        if form == self._root:
            return {"$ref": "#"}
        if form not in self._names:
            name = self._new_name(_name(form))
            self._names[form] = name
            self._defs[name] = {}  # its place, before those of the classes within it
            self._defs[name] = self._pydantic(form) if is_pydantic(form) else self._class(form, _name(form))
        return {"$ref": f"#/$defs/{self._names[form]}"}

    def _class(self, form: object, path: str) -> Schema:
        origin = get_origin(form) or form
        if not isinstance(origin, type):
            _refuse(f"{path}: {_name(form)} is no class", path)
        given = type_arguments(form)
        properties: Schema = {}
        required: list[JsonValue] = []
        for member in members_of(origin, path):
            at = f"{path}.{member.name}"
            described = self.describe(bound(member.hint, given, at), at)
            if member.description:
                described = {**described, "description": member.description}
            properties[member.name] = described
            required += [member.name] if member.required else []
        schema: Schema = {"type": "object", "title": _name(form)}
        description = description_of(origin)
        if description:
            schema["description"] = description
        return {**schema, "properties": properties, "required": required, "additionalProperties": False}

    def _alias(self, form: object, path: str) -> Schema:
        """Describe a `type X = ...`, which may refer to itself."""
        if form not in self._names:
            name = self._new_name(_name(form))
            self._names[form] = name
            self._defs[name] = {}
            value: object = getattr(get_origin(form) or form, "__value__", None)
            self._defs[name] = self.describe(bound(value, type_arguments(form), path), path)
        return {"$ref": f"#/$defs/{self._names[form]}"}

    def _pydantic(self, form: type[object]) -> Schema:
        """Return pydantic's own schema, its definitions among ours and its objects closed."""
        from localllm.output.pydantic_models import schema_of

        schema, defs = schema_of(form, lambda name: self._new_name(name))
        self._defs.update(defs)
        return schema

    def _new_name(self, name: str) -> str:
        plain = "".join(char if char.isalnum() and char.isascii() else "_" for char in name)
        number = next(number for number in range(len(self._defs) + 1) if f"{plain}{number or ''}" not in self._defs)
        return f"{plain}{number or ''}"


def _literal(values: Sequence[object], path: str) -> Schema:
    plain = [value.value if isinstance(value, enum.Enum) else value for value in values]
    return {"enum": [_scalar(value, path) for value in plain]}


def _enumeration(form: type[enum.Enum], path: str) -> Schema:
    if issubclass(form, enum.Flag):
        _refuse(f"{path}: {form.__name__} is a Flag, whose values are sums; use an Enum", path)
    values: list[JsonValue] = [_scalar(member.value, path) for member in form]
    description = description_of(form)
    return {"enum": values, "description": description} if description else {"enum": values}


def _scalar(value: object, path: str) -> JsonValue:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return _refuse(f"{path}: the value {value!r:.60} is none of str, int, float, bool and None", path)


def _is_enum(form: object) -> TypeGuard[type[enum.Enum]]:
    return isinstance(form, enum.EnumType)


def _is_alias(form: object) -> bool:
    """Whether `form` was made by `type X = ...`, or by the class that did so before there was that."""
    return type(form).__name__ == "TypeAliasType"


def bound(hint: object, given: Mapping[object, object], path: str) -> object:
    """Return `hint` with a generic class's parameters replaced by its arguments."""
    if isinstance(hint, typing.TypeVar):
        found = given.get(hint)
        if found is None or found is typing_extensions.NoDefault:
            _refuse(f"{path}: the type variable {hint} stands for nothing; give the class an argument", path)
        return found
    parameters: tuple[object, ...] = getattr(hint, "__parameters__", ())
    if not parameters or isinstance(hint, type):
        return hint
    arguments = tuple(bound(one, given, path) for one in parameters)
    filled: object = operator.getitem(cast("Mapping[object, object]", hint), arguments)
    return filled


def _name(form: object) -> str:
    origin, arguments = get_origin(form), get_args(form)
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(_name, arguments))}]"
    return form.__name__ if isinstance(form, type) else str(form).replace("typing.", "")


def _refuse(message: str, path: str) -> NoReturn:
    raise UnsupportedSchemaError(message, path=path)

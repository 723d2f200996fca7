"""JSON values as objects of Python types, by cattrs; unions by their branches' schemas, pydantic's by pydantic."""

from __future__ import annotations

import datetime
import types
import typing
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, get_args, get_origin

from typing_extensions import is_typeddict

from localllm._json import JsonValue
from localllm.errors import OutputValidationError
from localllm.output.checks import rules_of
from localllm.output.members import is_namedtuple, is_pydantic, members_of, type_arguments
from localllm.output.plain import pointer
from localllm.output.pydantic_models import validated
from localllm.output.python_types import bound, json_schema_of
from localllm.output.validation import violation

if TYPE_CHECKING:
    from cattrs import Converter


def structured(value: JsonValue, form: object) -> object:
    """Return `value`, which matches the schema of `form`, as what `form` says.

    Raises:
        OutputValidationError: The type's own rules refuse it: an attrs validator, `__post_init__`, pydantic.
    """
    if get_origin(form) is typing.Annotated:
        form = get_args(form)[0]  # what it says is in the schema; it may have no hash, which cattrs needs
    try:
        return _converter().structure(value, form)  # type: ignore[arg-type]  # cattrs takes more forms than types
    except Exception as exc:  # validators are the user's own code, and may fail in any way
        path, what = _first_failure(exc)
        raise OutputValidationError(f"{path or 'the value'}: {what}", path=path) from exc


@lru_cache(maxsize=1)
def _converter() -> Converter:
    from cattrs import Converter
    from cattrs.cols import namedtuple_dict_structure_factory

    converter = Converter(use_alias=True)
    converter.register_structure_hook_func(is_pydantic, lambda value, form: validated(form, value))
    converter.register_structure_hook_func(_is_union, _branch)
    converter.register_structure_hook_func(_is_typed_dict, _typed_dict)
    converter.register_structure_hook_func(lambda form: form is type(None), lambda value, _: None)
    converter.register_structure_hook_factory(is_namedtuple, namedtuple_dict_structure_factory)
    converter.register_structure_hook(datetime.datetime, lambda value, _: datetime.datetime.fromisoformat(value))
    converter.register_structure_hook(datetime.date, lambda value, _: datetime.date.fromisoformat(value))
    converter.register_structure_hook(datetime.time, lambda value, _: datetime.time.fromisoformat(value))
    converter.register_structure_hook(uuid.UUID, lambda value, _: uuid.UUID(value))
    converter.register_structure_hook_func(lambda form: form is object, lambda value, _: value)
    return converter


def _is_union(form: object) -> bool:
    return get_origin(form) in (typing.Union, types.UnionType)


def _branch(value: JsonValue, form: object) -> object:
    """Structure `value` as the first of a union's types that it fits and that does not refuse it."""
    failure: Exception | None = None
    for one in get_args(form):
        rules = rules_of(json_schema_of(one))
        if violation(value, rules.ready, rules.ready) is None:
            try:
                return _converter().structure(value, one)
            except Exception as exc:  # noqa: BLE001  # the next branch may take it
                failure = failure or exc
    if failure is not None:
        raise failure
    raise ValueError(f"fits none of {', '.join(map(str, get_args(form)))}")


def _is_typed_dict(form: object) -> bool:
    return is_typeddict(get_origin(form) or form)


def _typed_dict(value: JsonValue, form: object) -> object:
    """Structure a TypedDict: cattrs takes `NotRequired` for required where annotations are strings."""
    from cattrs import AttributeValidationNote, ClassValidationError

    given = value if isinstance(value, Mapping) else {}
    origin = get_origin(form) or form
    made: dict[str, object] = {}
    for member in members_of(origin, str(form)) if isinstance(origin, type) else ():
        if member.name not in given:
            continue
        hint = bound(member.hint, type_arguments(form), str(form))
        try:
            made[member.name] = _converter().structure(given[member.name], hint)  # type: ignore[arg-type]
        except Exception as exc:
            exc.add_note(AttributeValidationNote(member.name, member.name, hint))
            raise ClassValidationError(f"while making {form}", [exc], object) from exc
    return made


def _first_failure(exc: BaseException) -> tuple[str, str]:
    """Return where and what the first of the failures in `exc` is; cattrs leaves notes of the place."""
    path = ""
    while True:
        path = _noted(exc, path)
        if isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
            continue
        located = getattr(exc, "errors", None)  # pydantic's list of them
        if callable(located) and type(exc).__module__.startswith("pydantic"):
            first = located()[0]
            for part in first["loc"]:
                path = pointer(path, part)
            return path, str(first["msg"])
        return path, str(exc) or type(exc).__name__


def _noted(exc: BaseException, path: str) -> str:
    from cattrs import AttributeValidationNote, IterableValidationNote

    for note in getattr(exc, "__notes__", []):
        if isinstance(note, AttributeValidationNote):
            return pointer(path, note.name)
        if isinstance(note, IterableValidationNote):
            return pointer(path, note.index)
    return path

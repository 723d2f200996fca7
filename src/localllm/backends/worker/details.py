"""What an error of ours says beside its text, as JSON: the arguments that its class takes, whichever they are."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

import msgspec

from localllm import errors
from localllm.errors import BackendError, LocalLLMError

_NOT_CARRIED = ("message", "reply")
"""The text travels beside the details; a reply is added where the error is raised, by the turn."""


@cache
def kinds() -> Mapping[str, type[LocalLLMError]]:
    """Return the closed list of classes that may come from another process, by name."""
    named = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in named.items() if issubclass(value, LocalLLMError)}


def kind_of(name: str) -> type[LocalLLMError]:
    """Return the class of this name; BackendError for one that is not in the list."""
    return kinds().get(name, BackendError)


def details_of(error: BaseException, kind: type[LocalLLMError]) -> str:
    """Return what `error` says beside its text, as one of this class; what JSON cannot hold is left out."""
    form, given = _form(kind.__name__), vars(error)
    defaults = zip(form.__struct_fields__, form.__struct_defaults__, strict=True)
    found = {name: given[name] for name, default in defaults if given.get(name, default) != default}
    return json.dumps({name: value for name, value in found.items() if _fits(value)}, sort_keys=True)


def made(kind: type[LocalLLMError], message: str, details: str) -> LocalLLMError:
    """Return an error of this class.

    Raises:
        ValueError: The details are none of this class.
    """
    try:
        found = msgspec.convert(json.loads(details), _form(kind.__name__))
    except (msgspec.ValidationError, RecursionError) as exc:
        raise ValueError(f"no details of {kind.__name__}: {details!r:.80} ({exc})") from exc
    return kind(message, **msgspec.structs.asdict(found))


@cache
def _form(name: str) -> type[msgspec.Struct]:
    """Return the arguments that a class takes, with their types: what comes from elsewhere is checked against them."""
    kind = kinds()[name]
    hints = get_type_hints(kind.__init__, localns={"Reply": object})
    fields = [
        (taken, Any if hints[taken] is object else hints[taken], parameter.default)
        for taken, parameter in inspect.signature(kind).parameters.items()
        if taken not in _NOT_CARRIED
    ]
    return msgspec.defstruct(f"{name}Details", fields, forbid_unknown_fields=True)


def _fits(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True

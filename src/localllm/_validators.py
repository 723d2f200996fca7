"""Validators of values that users set: each message has the name, what is allowed, and what was given."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Protocol, TypeVar, cast

from attrs import Attribute

from localllm.errors import InvalidOptionError

_V = TypeVar("_V")


class Check(Protocol):
    """An attrs validator of a field of any type."""

    def __call__(self, instance: object, attribute: Attribute[_V], value: _V, /) -> None: ...


def number(low: float, high: float = math.inf, *, integral: bool = False, above: bool = False, none: str = "") -> Check:
    """A validator: a finite number in [low, high], or above `low` if `above`; `none` says what None means."""
    low_text = f"above {low}" if above else f"at least {low}"
    allowed = f"{'an integer' if integral else 'a number'} {low_text}"
    allowed += f" and at most {high}" if high != math.inf else ""
    allowed += f", or None ({none})" if none else ""

    def check(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
        if value is None and none:
            return
        fits_type = isinstance(value, int if integral else (int, float)) and not isinstance(value, bool)
        if not fits_type or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InvalidOptionError(f"{attribute.name} must be {allowed}; got {value!r:.80}")
        if value > high or value < low or (above and value == low):
            raise InvalidOptionError(f"{attribute.name} must be {allowed}; got {value!r}")

    return check


def one_of(*choices: object) -> Check:
    """A validator: the value equals one of `choices`, and is of its type."""

    def check(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            names = ", ".join(repr(choice) for choice in choices)
            raise InvalidOptionError(f"{attribute.name} must be one of {names}; got {value!r:.80}")

    return check


def integer(low: int, high: int = 2**31 - 1, *, none: str = "") -> Check:
    """A validator: an integer in [low, high]; `none` says what None means."""
    return number(low, high, integral=True, none=none)


def check_texts(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    """A validator: a tuple of texts, none of them empty."""
    if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
        raise InvalidOptionError(f"{attribute.name} must be a str or a sequence of str; got {value!r:.80}")
    for text in value:
        if not text:
            raise InvalidOptionError(f"{attribute.name} holds an empty string, which would match everywhere")
        check_encodes(attribute.name, text)


def check_encodes(name: str, text: str) -> None:
    """Raise InvalidOptionError if a text cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidOptionError(f"{name} holds a lone surrogate: {text!r:.80}") from exc


def folder_path(value: str | os.PathLike[str] | None) -> Path | None:
    """A converter: a path becomes absolute, so that it means the same in a worker; the rest is for `check_folder`."""
    given: object = value  # what users pass may be anything
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        return cast("Path | None", value)
    return Path(os.path.abspath(text))


def check_folder(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    """A validator: a folder's path, as `folder_path` leaves it, or None."""
    if value is not None and not (isinstance(value, Path) and value.is_absolute()):
        raise InvalidOptionError(f"{attribute.name} must be the path of a folder, or None (none); got {value!r:.80}")

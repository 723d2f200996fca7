"""Reading JSON that somebody else wrote: each value checked, each error naming what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from localllm.errors import InvalidPromptError, PromptTypeError

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""What JSON can hold."""


def check_text(text: object, what: str) -> str:
    """Return `text` if it can be tokenized: a str without lone surrogates.

    Raises:
        PromptTypeError: It is no str.
        InvalidPromptError: It holds a lone surrogate, which UTF-8 cannot encode.
    """
    if not isinstance(text, str):
        raise PromptTypeError(f"{what} must be a str, not {type(text).__name__}: {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidPromptError(
            f"{what} holds a lone surrogate (U+{ord(text[exc.start]):04X}) at index {exc.start}; "
            "decode the source with errors='replace' or remove it"
        ) from exc
    return text


def check_keys(
    data: Mapping[str, JsonValue], what: str, *, required: tuple[str, ...], optional: tuple[str, ...]
) -> None:
    """Raise InvalidPromptError unless `data` has all of `required` and nothing beyond `optional`."""
    if not isinstance(data, Mapping):
        raise PromptTypeError(f"a {what} must be a JSON object, not {type(data).__name__}")
    missing = [key for key in required if key not in data]
    unknown = [key for key in data if key not in required + optional]
    if missing or unknown:
        raise InvalidPromptError(f"not a {what}: missing {missing}, unknown {unknown}, in {dict(data)!r:.120}")


def as_object(value: JsonValue, what: str) -> Mapping[str, JsonValue]:
    """Return `value` if it is a JSON object, else raise InvalidPromptError."""
    if not isinstance(value, Mapping):
        raise InvalidPromptError(f"{what} must be a JSON object, not {value!r:.80}")
    return value


def as_list(value: JsonValue, what: str) -> Sequence[JsonValue]:
    """Return `value` if it is a JSON list, else raise InvalidPromptError."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidPromptError(f"{what} must be a list, not {value!r:.80}")
    return value

"""A JSON Schema as somebody wrote it, copied into plain JSON values, within limits on its size.

The limits are guesses with room to spare: of 11,000 schemas that llguidance's authors collected from public projects
few have more than 1,000 subschemas. What they prevent is a schema from outside that takes seconds to prepare.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import NoReturn

from localllm._json import JsonValue
from localllm.errors import InvalidSchemaError, SchemaTooDeepError, SchemaTooLargeError

MAX_CHARS = 256 * 1024
"""Of a schema's or a grammar's text."""
MAX_DEPTH = 64
"""Levels of objects and lists; an object within an object's property is two."""
MAX_VALUES = 20_000
"""Values of any kind in a schema."""


def pointer(path: str, key: str | int) -> str:
    """Return the JSON pointer (RFC 6901) of `key` below `path`."""
    return f"{path}/{key}" if isinstance(key, int) else f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def plain(schema: object) -> dict[str, JsonValue] | bool:
    """Return `schema` as dicts, lists, str, int, float, bool and None, all new.

    Raises:
        InvalidSchemaError: It is no JSON Schema: another type of value, a key that is no str, NaN, a lone surrogate.
        SchemaTooLargeError, SchemaTooDeepError: It is beyond the limits.
    """
    copied = _Copier().copy(schema, "", 0)
    if not isinstance(copied, (dict, bool)):
        raise InvalidSchemaError(f"a JSON Schema must be a mapping or a bool; got {schema!r:.80}")
    size = len(json.dumps(copied, ensure_ascii=False))
    if size > MAX_CHARS:
        raise SchemaTooLargeError(f"the schema has {size:,} characters; at most {MAX_CHARS:,} are taken")
    return copied


class _Copier:
    """Copies one schema, counting."""

    def __init__(self) -> None:
        self._values = 0
        self._chars = 0

    def copy(self, value: object, path: str, depth: int) -> JsonValue:
        self._values += 1
        if self._values > MAX_VALUES:
            raise SchemaTooLargeError(f"the schema has more than {MAX_VALUES:,} values; make it smaller", path=path)
        if depth > MAX_DEPTH:
            raise SchemaTooDeepError(
                f"the schema is nested deeper than {MAX_DEPTH} levels, at {path[:200]}; name its parts in $defs",
                path=path,
            )
        match value:
            case None | bool():
                return value
            case int():
                return self._integer(value, path)
            case float():
                if not math.isfinite(value):
                    _refuse(f"the schema holds {value!r}, which JSON does not know", path)
                return value
            case str():
                return self._text(value, path)
            case Mapping():
                pairs = ((self._key(key, path), item) for key, item in value.items())
                return {key: self.copy(item, pointer(path, key), depth + 1) for key, item in pairs}
            case Sequence() if not isinstance(value, (bytes, bytearray)):
                return [self.copy(item, pointer(path, index), depth + 1) for index, item in enumerate(value)]
            case _:
                pass
        return _refuse(f"the schema holds {value!r:.80}, a {type(value).__name__}, which JSON does not know", path)

    def _key(self, key: object, path: str) -> str:
        if not isinstance(key, str):
            _refuse(f"the schema has a key that is no str: {key!r:.80}", path)
        return self._text(key, path)

    def _text(self, text: str, path: str) -> str:
        self._chars += len(text)
        if self._chars > MAX_CHARS:
            raise SchemaTooLargeError(f"the schema has more than {MAX_CHARS:,} characters", path=path)
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(f"the schema holds a lone surrogate, in {text!r:.80}", path)
        if "\0" in text:
            _refuse(f"the schema holds a NUL, in {text!r:.80}", path)
        return str(text)

    def _integer(self, number: int, path: str) -> int:
        if abs(number) >= 10**300:
            _refuse("the schema holds an integer of more than 300 digits", path)
        return int(number)


def _refuse(what: str, path: str) -> NoReturn:
    raise InvalidSchemaError(f"{what}{' at ' + path if path else ''}", path=path)

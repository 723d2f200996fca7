"""JSON inside a reply: read as it arrives, refused at the first character that cannot be JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn, TypeAlias

from localllm._json import JsonValue
from localllm.chat.dialects.tape import Reading, Tape

Emit: TypeAlias = Callable[[str], None]
"""Told of each piece of JSON text."""

_CLOSER = {"{": "}", "[": "]"}
_PLAIN = re.compile(r"[\s0-9A-Za-z+\-.,:]*")
_SCALAR = re.compile(r"[0-9A-Za-z+\-.]*")
_IN_STRING = re.compile(r'[^"\\]*')
_MAX_DEPTH = 200  # brackets inside of brackets; Python's own limits are a few times that
_CONTROL = re.compile(r"[\x00-\x1f]")


def decode(text: str) -> JsonValue:
    """Return what the JSON text `text` says; line breaks inside of strings are taken, NaN and infinities are not.

    Raises:
        ValueError: It is no JSON, nested too deep, or holds a number or a character that cannot be passed on.
    """
    try:
        value: JsonValue = json.loads(text, strict=False, parse_constant=_refuse)
        encode(value).encode()  # fails on half a surrogate pair
    except RecursionError as exc:
        raise ValueError("the JSON is nested too deep") from exc
    return value


def encode(value: JsonValue) -> str:
    """Return `value` as JSON text.

    Raises:
        ValueError: It holds an infinite number.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def type_of(value: JsonValue) -> str:
    """Return the name of a value's JSON type."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array"


def decode_object(text: str) -> dict[str, JsonValue] | None:
    """Return the object that `text` stands for, also if it is a JSON string of one; None if it stands for none."""
    try:
        value = decode(text)
        if isinstance(value, str):
            value = decode(value)
    except ValueError:
        return None
    return dict(value) if isinstance(value, Mapping) else None


def scan_value(tape: Tape, emit: Emit | None = None) -> Reading[str | None]:
    """Read one JSON value, its brackets in balance; None if it cannot be one.

    Args:
        tape: At the value's first character.
        emit: Told of the pieces as they come.

    Returns:
        The value's text, line breaks inside of strings escaped, which is also what `emit` is told.
    """
    while tape.pos == len(tape.text) and not tape.ended:
        yield
    if tape.text[tape.pos : tape.pos + 1] not in ("{", "[", '"'):
        scalar = yield from tape.match(_SCALAR)
        if scalar and emit:
            emit(scalar)
        return scalar or None
    scanner = _Scanner()
    whole: list[str] = []
    while True:
        end, piece, state = scanner.step(tape.text, tape.pos)
        tape.pos = end
        if piece:
            whole.append(piece)
            if emit:
                emit(piece)
        if state == "done":
            return "".join(whole)
        if state == "broken" or tape.ended:
            return None
        yield


def scan_string(tape: Tape) -> Reading[str | None]:
    """Read a JSON string; None if there is none, or it cannot be decoded."""
    yield from tape.space()
    if not tape.text.startswith('"', tape.pos):
        return None
    text = yield from scan_value(tape)
    try:
        value = None if text is None else decode(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


class _Scanner:
    """Follows the brackets and strings of a value that is an object, an array or a string."""

    def __init__(self) -> None:
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False

    def step(self, text: str, pos: int) -> tuple[int, str, Literal["more", "done", "broken"]]:
        """Follow `text` from `pos`: how far, what it says there, and whether the value goes on."""
        said: list[str] = []
        while pos < len(text):
            before = pos
            if self._in_string:
                pos = self._string(text, pos)
                said.append(_CONTROL.sub(_escape, text[before:pos]))
            else:
                found = _PLAIN.match(text, pos) if self._open else None
                pos = found.end() if found else pos
                if pos < len(text) and not self._bracket(text[pos]):
                    return pos, "".join(said), "broken"
                pos = min(pos + 1, len(text))
                said.append(text[before:pos])
            if not self._open and not self._in_string:
                return pos, "".join(said), "done"
        return pos, "".join(said), "more"

    def _string(self, text: str, pos: int) -> int:
        """Go on inside of a string, to its end or the text's; return where."""
        while pos < len(text):
            if self._escaped:
                self._escaped = False
                pos += 1
                continue
            found = _IN_STRING.match(text, pos)
            pos = found.end() if found else pos
            if pos < len(text):
                pos += 1
                if text[pos - 1] == '"':
                    self._in_string = False
                    return pos
                self._escaped = True
        return pos

    def _bracket(self, char: str) -> bool:
        """Take a bracket or a quote between values; False if it cannot stand there."""
        if char == '"':
            self._in_string = True
        elif char in _CLOSER:
            if len(self._open) == _MAX_DEPTH:
                return False
            self._open.append(_CLOSER[char])
        elif not self._open or self._open.pop() != char:
            return False
        return True


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]

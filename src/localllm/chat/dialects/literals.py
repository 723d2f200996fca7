"""Values in a notation that is nearly JSON: Python's literals, or bare keys and quotes of a family's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.dialects.json_text import decode, encode

PYTHON = ("'", '"')
"""The quotes of Python; inside of these, a backslash escapes."""

_MAX_DEPTH = 64
_WORDS: dict[str, JsonValue] = {
    "true": True, "false": False, "null": None, "True": True, "False": False, "None": None, "none": None,
}  # fmt: skip
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\s,:=(){}\[\]'\"]+")
_BARE_KEY = re.compile(r"[^\s,:=(){}\[\]'\"]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "0": "\0", "\n": ""}


class LiteralReader:
    """Reads values from a text.

    Args:
        text: The text.
        quotes: What texts stand between.
        pos: Where to begin; moves on as values are read.

    Its methods raise ValueError where there is no value.
    """

    def __init__(self, text: str, quotes: Sequence[str] = PYTHON, pos: int = 0) -> None:
        self.text = text
        self.pos: int = pos
        self._quotes = tuple(quotes)

    def accept(self, literal: str) -> bool:
        """Read `literal` if it comes next, after any white space."""
        self._space()
        found = self.text.startswith(literal, self.pos)
        self.pos += len(literal) if found else 0
        return found

    def end(self) -> None:
        """Raise ValueError unless nothing but white space is left."""
        self._space()
        if self.pos < len(self.text):
            raise ValueError(f"{self.text[self.pos : self.pos + 20]!r} after a value")

    def word(self) -> str:
        """Read a bare key or name."""
        self._space()
        found = _BARE_KEY.match(self.text, self.pos)
        if not found:
            raise ValueError(f"no name at {self.text[self.pos : self.pos + 20]!r}")
        self.pos = found.end()
        return found[0]

    def pairs(self, close: str, equals: str, depth: int = 0) -> dict[str, JsonValue]:
        """Read `key: value, …` up to `close`, and past it; `equals` stands between a key and its value."""
        found: dict[str, JsonValue] = {}
        while not self.accept(close):
            if found and not self.accept(","):
                raise ValueError(f"no comma at {self.text[self.pos : self.pos + 20]!r}")
            if found and self.accept(close):
                break
            key = self._quoted()
            key = self.word() if key is None else key
            if not self.accept(equals):
                raise ValueError(f"no {equals!r} after {key!r:.40}")
            found[key] = self.value(depth + 1)
        return found

    def value(self, depth: int = 0) -> JsonValue:
        """Read a value."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        text = self._quoted()
        if text is not None:
            return text
        if self.accept("{"):
            return self.pairs("}", ":", depth)
        for bracket, close in (("[", "]"), ("(", ")")):
            if self.accept(bracket):
                return self._items(close, depth)
        found = _WORD.match(self.text, self.pos)
        word = found[0] if found else ""
        if word not in _WORDS and not _NUMBER.fullmatch(word):
            raise ValueError(f"no value at {self.text[self.pos : self.pos + 20]!r}")
        self.pos += len(word)
        return _WORDS[word] if word in _WORDS else decode(word)

    def _items(self, close: str, depth: int) -> list[JsonValue]:
        found: list[JsonValue] = []
        while not self.accept(close):
            if found and not self.accept(","):
                raise ValueError(f"no comma at {self.text[self.pos : self.pos + 20]!r}")
            if found and self.accept(close):
                break
            found.append(self.value(depth + 1))
        return found

    def _quoted(self) -> str | None:
        """Read a text between quotes, if there is one."""
        for quote in self._quotes:
            if self.accept(quote):
                return self._python(quote) if quote in PYTHON else self._until(quote)
        return None

    def _until(self, quote: str) -> str:
        end = self.text.find(quote, self.pos)
        if end < 0:
            raise ValueError(f"a text without its closing {quote}")
        text = self.text[self.pos : end]
        self.pos = end + len(quote)
        return text

    def _python(self, quote: str) -> str:
        """Read to the closing quote that is not escaped."""
        found = re.compile(rf"((?:[^\\{quote}]|\\.)*){quote}", re.DOTALL).match(self.text, self.pos)
        if not found:
            raise ValueError(f"a text without its closing {quote}")
        self.pos = found.end()
        text = _ESCAPE.sub(_unescape, found[1])
        text.encode()  # half a surrogate pair cannot be passed on; UnicodeEncodeError is a ValueError
        return text

    def _space(self) -> None:
        found = _SPACE.match(self.text, self.pos)
        self.pos = found.end() if found else self.pos


def _unescape(found: re.Match[str]) -> str:
    code = found[1] or found[2]
    return chr(int(code, 16)) if code else _ESCAPED.get(found[3], found[3] if found[3] in "\\'\"/" else found[0])


def literal(text: str) -> JsonValue:
    """Return what the whole of `text` stands for in Python's notation.

    Raises:
        ValueError: It is no literal that JSON has.
    """
    reader = LiteralReader(text)
    value = reader.value()
    reader.end()
    return value


def write_literal(value: JsonValue, quote: str) -> str:
    """Return `value` with bare keys, its texts between `quote`."""
    match value:
        case str():
            return f"{quote}{value}{quote}"
        case Mapping():
            return "{" + ",".join(f"{key}:{write_literal(item, quote)}" for key, item in value.items()) + "}"
        case Sequence():
            return "[" + ",".join(write_literal(item, quote) for item in value) + "]"
        case _:
            return encode(value)


def write_python(value: JsonValue) -> str:
    """Return `value` in Python's notation, texts in double quotes."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{encode(key)}: {write_python(item)}" for key, item in value.items()) + "}"
        case bool() | None:
            return str(value)
        case str() | int() | float():
            return encode(value)
        case _:
            return "[" + ", ".join(write_python(item) for item in value) + "]"

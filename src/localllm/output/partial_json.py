"""Reading JSON text as it grows: what is certain so far, as plain values.

Written here because the libraries that read partial JSON (jiter's `partial_mode`, partial-json-parser) have to be given
the whole text anew for each piece: over a stream that is quadratic. They also show a number before it is whole. This
reads each character once.
"""

from __future__ import annotations

import json
import re
from typing import Literal

from attrs import define, field

from localllm._json import JsonValue

_Container = dict[str, JsonValue] | list[JsonValue]
_State = Literal["value", "first value", "key", "first key", "colon", "after", "string", "key string", "literal", "end"]

_SPACE = " \t\n\r"
_PLAIN = re.compile(r'[^"\\]*')
_LITERAL = re.compile(r"[-+.0-9A-Za-z]*")
_WHOLE = re.compile(r"null|true|false|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@define(eq=False)
class PartialJson:
    """The value of JSON text that arrives piece by piece.

    What it shows never goes backwards: objects and lists only gain members, strings only grow, and a number, `true`,
    `false` or `null` appears once it is whole, which is when something follows it. A key appears with the beginning of
    its value; should a key come twice, its last value counts, as `json.loads` has it.

    Reading takes time in the length of the text. A snapshot takes time in the number of members of the objects and
    lists that are still open, and the length of the string that is; what is closed is shared by all snapshots, so leave
    them unchanged.

    ::

        reader = PartialJson()
        reader.push('{"name": "Ad')  # {"name": "Ad"}
        reader.push('a", "age": 3')  # {"name": "Ada"}
        reader.push("6}")            # {"name": "Ada", "age": 36}

    Args:
        broken: Whether the text was found to be no JSON; what was read before stays, and nothing is read any more.
    """

    broken: bool = field(default=False, init=False)
    _root: list[JsonValue] = field(factory=list, init=False)  # the value as its one item, once it has begun
    _stack: list[_Container] = field(factory=list, init=False)  # what is open, the outermost first
    _keys: list[str] = field(factory=list, init=False)  # for each of the stack, the key that is being read
    _state: _State = field(default="value", init=False)
    _chars: list[str] = field(factory=list, init=False)  # of the string or literal that is being read
    _escape: str = field(default="", init=False)  # an escape that is not whole
    _high: str = field(default="", init=False)  # half of a surrogate pair that waits for the other

    @property
    def begun(self) -> bool:
        """Whether there is a value yet; tells `null` from nothing."""
        return bool(self._root) or self._state == "string"

    @property
    def whole(self) -> bool:
        """Whether the value has ended; of a number on its own nobody can tell before `finish`."""
        return self._state == "end" and not self.broken

    def push(self, text: str) -> JsonValue:
        """Read the next piece of the text, and take a snapshot.

        Returns:
            The value so far; None if there is none yet.
        """
        self.feed(text)
        return self.value

    def feed(self, text: str) -> None:
        """Read the next piece of the text; `value` is there for who looks."""
        at = 0
        while at < len(text) and not self.broken:
            at = self._read(text, at)

    def finish(self) -> JsonValue:
        """Say that the text has ended, so that a number on its own is whole; return the value."""
        if self._state == "literal" and not self._stack:
            self._end_literal()
        return self.value

    @property
    def value(self) -> JsonValue:
        """A snapshot of the value so far; None if there is none yet."""
        if not self._stack:
            return self._string_so_far() if self._state == "string" else self._root[0] if self._root else None
        inner: JsonValue = None
        for depth in reversed(range(len(self._stack))):
            container = self._stack[depth]
            innermost = depth == len(self._stack) - 1
            inner = self._snapshot(container, self._keys[depth], inner, innermost=innermost)
        return inner

    def _snapshot(self, container: _Container, key: str, inner: JsonValue, *, innermost: bool) -> JsonValue:
        """Return a copy of an open container, in it what is open within."""
        if innermost and self._state != "string":
            return dict(container) if isinstance(container, dict) else list(container)
        last = self._string_so_far() if innermost else inner
        if isinstance(container, dict):
            return {**container, key: last}
        # A string is put in when it is whole; an open container is in already.
        return [*(container if innermost else container[:-1]), last]

    def _string_so_far(self) -> str:
        self._chars = ["".join(self._chars)]
        return self._chars[0]

    def _read(self, text: str, at: int) -> int:
        """Read from `text[at]` on; return how far."""
        match self._state:
            case "string" | "key string":
                return self._read_escape(text[at], at) if self._escape else self._read_string(text, at)
            case "literal":
                found = _LITERAL.match(text, at)
                stop = at if found is None else found.end()
                self._chars.append(text[at:stop])
                if stop < len(text):
                    self._end_literal()
                return stop
            case _:
                if text[at] not in _SPACE:
                    self._read_mark(text[at])
                return at + 1

    def _read_mark(self, char: str) -> None:
        """Read a character that stands outside strings and literals."""
        match self._state, char:
            case (("value" | "first value"), "{"):
                self._open({}, "first key")
            case (("value" | "first value"), "["):
                self._open([], "first value")
            case (("value" | "first value"), '"'):
                self._state = "string"
            case "first value", "]":
                self._close()
            case (("value" | "first value"), _) if _LITERAL.fullmatch(char):
                self._state = "literal"
                self._chars.append(char)
            case (("key" | "first key"), '"'):
                self._state = "key string"
            case "first key", "}":
                self._close()
            case "colon", ":":
                self._state = "value"
            case "after", ",":
                self._state = "key" if isinstance(self._stack[-1], dict) else "value"
            case "after", ("}" | "]") if isinstance(self._stack[-1], dict) == (char == "}"):
                self._close()
            case _:
                self.broken = True

    def _read_string(self, text: str, at: int) -> int:
        """Read up to an escape or the end of the string."""
        found = _PLAIN.match(text, at)
        stop = at if found is None else found.end()
        if stop > at:
            self._take(text[at:stop])
        if stop == len(text):
            return stop
        if text[stop] == "\\":
            self._escape = "\\"
        else:
            self._take("")
            self._end_string()
        return stop + 1

    def _read_escape(self, char: str, at: int) -> int:
        """Read one more character of an escape."""
        self._escape += char
        if self._escape[1] != "u":
            self.broken = char not in _SHORT
            self._take(_SHORT.get(char, ""))
            self._escape = ""
        elif len(self._escape) == 6:
            try:
                decoded = chr(int.from_bytes(bytes.fromhex(self._escape[2:])))
            except ValueError:
                self.broken = True
                return at + 1
            self._escape = ""
            self._take_unit(decoded)
        return at + 1

    def _take(self, text: str) -> None:
        """Add `text` to the string; a high surrogate before it has no other half."""
        self._chars += [self._high, text]
        self._high = ""

    def _take_unit(self, unit: str) -> None:
        """Add what `\\\\uXXXX` stands for: a character, or half of one."""
        if self._high and "\udc00" <= unit <= "\udfff":
            pair = (self._high + unit).encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            self._high = ""
            self._take(pair)
        elif "\ud800" <= unit <= "\udbff":
            self._take("")
            self._high = unit
        else:
            self._take(unit)

    def _open(self, container: _Container, state: _State) -> None:
        self._put(container)
        self._stack.append(container)
        self._keys.append("")
        self._state = state

    def _close(self) -> None:
        self._stack.pop()
        self._keys.pop()
        self._after_value()

    def _end_string(self) -> None:
        text = self._string_so_far()
        self._chars = []
        if self._state == "key string":
            self._keys[-1] = text
            self._state = "colon"
        else:
            self._put(text)
            self._after_value()

    def _end_literal(self) -> None:
        text = "".join(self._chars)
        self._chars = []
        try:
            value: JsonValue = json.loads(text) if _WHOLE.fullmatch(text) else None
        except ValueError:  # an integer of thousands of digits
            self.broken = True
            return
        if value is None and text != "null":
            self.broken = True
            return
        self._put(value)
        self._after_value()

    def _after_value(self) -> None:
        self._state = "after" if self._stack else "end"

    def _put(self, value: JsonValue) -> None:
        """Put a value where one is expected."""
        if not self._stack:
            self._root.append(value)
            return
        parent = self._stack[-1]
        if isinstance(parent, dict):
            parent[self._keys[-1]] = value
        else:
            parent.append(value)

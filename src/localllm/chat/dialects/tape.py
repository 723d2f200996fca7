"""The text of a reply while it arrives: read ahead, taken, and put back when a call turns out to be none.

Reading functions are generators: they yield when they cannot decide without more text, and are resumed when more has
come or the reply has ended. What they decide depends on the text alone, never on where it was cut.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import cache
from typing import TypeAlias, TypeVar

_T = TypeVar("_T")

Reading: TypeAlias = Generator[None, None, _T]
"""A reading function: yields for more text, returns what it read."""

OPTIONAL_SPACE = "␣"
"""In a pattern: white space may stand here, but is not written."""

_SPACE = re.compile(r"\s*")


class Tape:
    """The text that is not settled yet."""

    def __init__(self) -> None:
        self.text: str = ""
        self.pos: int = 0
        self.ended = False
        """Whether no more text will come."""
        self._settled = 0

    def feed(self, text: str) -> None:
        """Add `text` at the end."""
        self.text = self.text[self._settled :] + text
        self.pos -= self._settled
        self._settled = 0

    def commit(self) -> str:
        """Settle what was read since the last commit; return it."""
        raw = self.since()
        self._settled = self.pos
        return raw

    def since(self) -> str:
        """Return what was read since the last commit."""
        return self.text[self._settled : self.pos]

    def read(self) -> int:
        """Return how much was read since the last commit."""
        return self.pos - self._settled

    def rewind(self, read: int = 0) -> None:
        """Put back what was read since the last commit, but for `read` characters."""
        self.pos = self._settled + read

    def take(self, end: int) -> str:
        """Read up to the index `end` of `text`."""
        taken = self.text[self.pos : end]
        self.pos = end
        return taken

    def space_now(self) -> None:
        """Read the white space that is there."""
        found = _SPACE.match(self.text, self.pos)
        self.pos = found.end() if found else self.pos

    def space(self) -> Reading[None]:
        """Read white space until something else comes, or the end."""
        while True:
            self.space_now()
            if self.pos < len(self.text) or self.ended:
                return
            yield

    def accept(self, literal: str) -> Reading[bool]:
        """Read `literal` if it comes next; else read nothing."""
        while True:
            if self.text.startswith(literal, self.pos):
                self.pos += len(literal)
                return True
            rest = len(self.text) - self.pos
            if self.ended or rest >= len(literal) or not literal.startswith(self.text[self.pos :]):
                return False
            yield

    def comes(self, literal: str) -> Reading[bool]:
        """Tell whether `literal` comes next; read nothing."""
        found = yield from self.accept(literal)
        self.pos -= len(literal) if found else 0
        return found

    def expect(self, pattern: str) -> Reading[bool]:
        """Read `pattern` with any white space where it has some; if it does not come next, read nothing."""
        before = self.read()
        spaced, parts = _parts(pattern)
        for index, part in enumerate(parts):
            if index or spaced:
                yield from self.space()
            if part and not (yield from self.accept(part)):
                self.rewind(before)
                return False
        return True

    def until(self, stop: str) -> Reading[str | None]:
        """Read up to `stop`, and past it; None if the text ends before."""
        read: list[str] = []
        while True:
            found = self.text.find(stop, self.pos)
            if found >= 0:
                read.append(self.take(found))
                self.pos += len(stop)
                return "".join(read)
            if self.ended:
                return None
            read.append(self.take(len(self.text) - held(self.text, self.pos, (stop,))))
            yield

    def match(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Read what `pattern`, a repeated class of characters, matches, and wait for the character after it."""
        read: list[str] = []
        while True:
            found = pattern.match(self.text, self.pos)
            read.append(self.take(found.end() if found else self.pos))
            if self.pos < len(self.text) or self.ended:
                return "".join(read)
            yield

    def find(self, marks: tuple[str, ...]) -> tuple[int, str | None]:
        """Look for the first of `marks`: where it begins, and which one it is.

        Without one: up to where there is none for certain, and None.
        """
        found = _any_of(marks).search(self.text, self.pos) if marks else None
        if found:
            tail = self.text[found.start() : found.start() + max(map(len, marks))]
            grows = any(len(mark) > len(tail) and mark.startswith(tail) for mark in marks)
            return found.start(), None if grows and not self.ended else found[0]
        return len(self.text) - (0 if self.ended else held(self.text, self.pos, marks)), None


@cache
def _any_of(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True)))


def held(text: str, start: int, marks: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text[start:]` may be the beginning of one of `marks`."""
    longest = max((len(mark) for mark in marks), default=0) - 1
    for index in range(max(start, len(text) - longest), len(text)):
        tail = text[index:]
        if any(mark.startswith(tail) for mark in marks):
            return len(tail)
    return 0


@cache
def _parts(pattern: str) -> tuple[bool, tuple[str, ...]]:
    """Split a pattern at its white space; and tell whether it begins with some."""
    flat = pattern.replace(OPTIONAL_SPACE, " ")
    return flat[:1].isspace(), tuple(flat.split()) + (("",) if flat[-1:].isspace() else ())


def first_part(pattern: str) -> str:
    """Return what `pattern` begins with, up to its first white space."""
    parts = pattern.replace(OPTIONAL_SPACE, " ").split()
    return parts[0] if parts else ""


def written(pattern: str) -> str:
    """Return `pattern` as it is written."""
    return pattern.replace(OPTIONAL_SPACE, "")

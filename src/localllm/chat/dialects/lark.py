"""Writing llguidance's dialect of Lark: rules, texts in which control tokens are tokens, free text up to a mark.

The syntax is described in llguidance's `docs/syntax.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from attrs import frozen

FREE = "/(?s:.*)/"
"""Any text, without control tokens."""


@frozen
class TokenPart:
    """A control token inside of a mark."""

    token: int


class LarkWriter:
    """Collects the rules of a grammar.

    Args:
        special: The control tokens of the vocabulary, by text.
    """

    def __init__(self, special: Mapping[str, int]) -> None:
        self._special = special
        self._lines: list[str] = []
        self._count = 0
        texts = sorted((text for text in special if text), key=len, reverse=True)
        self._split = re.compile("|".join(map(re.escape, texts))) if texts else None

    def source(self, start: str) -> str:
        """Return the grammar, whose rule `start` is the expression `start`."""
        return "\n".join([f"start: {start}", *self._lines]) + "\n"

    def line(self, line: str) -> None:
        """Add a line as it is."""
        self._lines.append(line)

    def name(self, stem: str) -> str:
        """Return a name that no other rule has."""
        self._count += 1
        return f"{stem}_{self._count}"

    def rule(self, stem: str, body: str, attributes: str = "") -> str:
        """Add a rule, or a terminal for a stem in capitals; return its name."""
        name = self.name(stem)
        self._lines.append(f"{name}{attributes}: {body}")
        return name

    def text(self, text: str) -> str:
        """Return an expression for a text of ours; empty for an empty one."""
        return " ".join(
            f"<[{part.token}]>" if isinstance(part, TokenPart) else quoted(part) for part in self._parts(text)
        )

    def has_token(self, text: str) -> bool:
        """Whether there is a control token in a text of ours."""
        return any(isinstance(part, TokenPart) for part in self._parts(text))

    def free_until(self, mark: str, free: str = FREE) -> str:
        """Return an expression for free text up to the first `mark`, and the mark.

        Args:
            mark: A text of ours.
            free: The terminal for the text.
        """
        parts = self._parts(mark)
        first = next((index for index, part in enumerate(parts) if isinstance(part, TokenPart)), None)
        if first is None:
            return self.rule("until", f"{free} {quoted(mark)}", "[lazy]")
        before = "".join(part for part in parts[:first] if isinstance(part, str))
        head = self.rule("HEAD", f"{free} {quoted(before)}") if before else self.rule("HEAD", free)
        rest = " ".join(f"<[{part.token}]>" if isinstance(part, TokenPart) else quoted(part) for part in parts[first:])
        return f"{head} {rest}"

    def without(self, marks: Iterable[str], terminal: str = FREE) -> str:
        """Return an expression for a terminal's text with none of `marks` in it.

        Args:
            marks: Texts of ours; text has no control tokens in any case.
            terminal: An expression for a terminal.
        """
        spelled = [re.escape(mark) for mark in marks if mark and not self.has_token(mark)]
        found = regex(f"(?s:.*)({'|'.join(spelled)})(?s:.*)")
        return f"{terminal} & ~{found}" if spelled else terminal

    def _parts(self, text: str) -> list[str | TokenPart]:
        parts: list[str | TokenPart] = []
        at = 0
        for found in self._split.finditer(text) if self._split else ():
            parts += [text[at : found.start()]] if found.start() > at else []
            parts.append(TokenPart(self._special[found[0]]))
            at = found.end()
        return parts + ([text[at:]] if at < len(text) else [])


def quoted(text: str) -> str:
    """Return a text as a Lark string."""
    return json.dumps(text, ensure_ascii=False)


def regex(pattern: str) -> str:
    """Return a regular expression of ours as Lark has it."""
    return "/" + pattern.replace("/", "\\/").replace("\n", "\\n") + "/"


def one_of(options: list[str]) -> str:
    """Return an expression for one of several."""
    return options[0] if len(options) == 1 else "(" + " | ".join(options) + ")"


def sequence(*parts: str) -> str:
    """Return an expression for one after the other; empty ones are left out."""
    return " ".join(part for part in parts if part)

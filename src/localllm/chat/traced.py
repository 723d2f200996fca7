"""Text that remembers which of its characters came out of messages and which the template wrote itself.

Control tokens are not content: `<|im_end|>` typed by a user must reach the model as plain text, while the same
characters in the template are a control token. After rendering, the text alone no longer tells the two apart. So
while a template runs, everything that comes out of a message, a tool or a document is a `TracedText`, and every
operation that a template can apply to text (see `strings`) carries the origins along, character by character.
The template still sees the real text: `'</think>' in content` answers as it would anywhere.

An operation that cannot say which characters came from where (JSON, padding, a change of case that changes the
length) gives its whole result one origin, that of the content in it. Where in doubt, text is content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Self, SupportsIndex, TypeAlias

_Index: TypeAlias = SupportsIndex | None
_Slice: TypeAlias = "slice[_Index, _Index, _Index]"

OWN = "\0"
"""Origin of what the template wrote itself."""

CONTENT = "\1"
"""Origin of content. Origins above it are content as well, and say of which message (see `renderer`)."""


class TracedText(str):
    """A text with an origin for each of its characters.

    Args:
        text: The text.
        origins: As many characters as `text` has; each is the origin of the character at its place.
    """

    __slots__ = ("origins",)
    origins: str

    def __new__(cls, text: str, origins: str) -> Self:
        if len(text) != len(origins):
            raise ValueError(f"{len(origins)} origins for {len(text)} characters")
        self = super().__new__(cls, text)
        self.origins = origins
        return self

    def __str__(self) -> str:
        # What jinja2's generated code calls on everything it puts out: the origins must survive it.
        return self

    def __getitem__(self, key: SupportsIndex | _Slice) -> str:
        return traced(super().__getitem__(key), self.origins[key])

    def __iter__(self) -> Iterator[str]:
        return map(traced, super().__iter__(), self.origins)


def traced(text: str, origins: str) -> str:
    """Return `text` with these origins: a plain str if all of it is the template's own."""
    if origins.count(OWN) == len(origins):
        return plain(text)
    return TracedText(text, origins)


def content(text: str, origin: str = CONTENT) -> str:
    """Return `text` as content throughout."""
    return TracedText(text, origin * len(text)) if text else text


def plain(text: str) -> str:
    """Return `text` as an exact str, its origins forgotten."""
    return str.__str__(text)


def origins_of(text: str) -> str:
    """Return the origin of each character; that of a plain str is `OWN` throughout."""
    return text.origins if isinstance(text, TracedText) else OWN * len(text)


def origin_of(text: str) -> str:
    """Return the one origin of the content in `text`: OWN if there is none, CONTENT if there are several."""
    if not isinstance(text, TracedText):
        return OWN
    first = text.origins.lstrip(OWN)[:1]
    same = text.origins.count(first) + text.origins.count(OWN) == len(text.origins)
    return first if same else CONTENT


def blend(origins: Iterable[str]) -> str:
    """Return the origin of something made of all of these (see `origin_of`)."""
    found = set(origins) - {OWN}
    if not found:
        return OWN
    return found.pop() if len(found) == 1 else CONTENT


def stamp(text: str, origin: str) -> str:
    """Return `text` with one origin throughout, whatever it had before."""
    return plain(text) if origin == OWN else content(plain(text), origin)


def join(parts: Sequence[str], separator: str = "") -> str:
    """Return what `separator.join(parts)` returns, with the origin of each character."""
    text = separator.join(parts)
    if not isinstance(separator, TracedText) and not any(isinstance(part, TracedText) for part in parts):
        return plain(text)
    return traced(text, origins_of(separator).join([origins_of(part) for part in parts]))

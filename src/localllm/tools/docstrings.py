"""What a function's docstring says of it: for the model, which chooses tools by it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from docstring_parser import Docstring


@frozen
class Described:
    """What a docstring says.

    Args:
        text: What the function does: the docstring without its sections.
        parameters: What it says of parameters, by name.
    """

    text: str = ""
    parameters: Mapping[str, str] = field(factory=dict)


def described(docstring: str | None) -> Described:
    """Read a docstring in Google's, NumPy's or Sphinx's style; one in no style at all is text."""
    if not docstring:
        return Described()
    from docstring_parser import ParseError, parse  # for those who have tools

    cleaned = inspect.cleandoc(docstring)
    try:
        parsed = parse(cleaned)
    except ParseError:  # half a section: the model can read it all the same
        return Described(cleaned)
    parameters = {item.arg_name: " ".join(item.description.split()) for item in parsed.params if item.description}
    return Described(_text(parsed), parameters)


def _text(parsed: Docstring) -> str:
    parts = [part.strip() for part in (parsed.short_description, parsed.long_description) if part]
    return "\n\n".join(parts) if parsed.blank_after_short_description else "\n".join(parts)

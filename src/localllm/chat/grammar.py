"""What a reply must look like: a value that travels with a request."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

GrammarKind = Literal["json_schema", "regex", "choice", "lark"]


@frozen
class Grammar:
    """What a reply's text must look like; thoughts before it are free.

    Args:
        kind: What `source` is.
        source: A JSON Schema as JSON text, a regular expression, a JSON array of the texts to choose from, or a grammar
            in llguidance's dialect of Lark with a rule `start`.
    """

    kind: GrammarKind
    source: str

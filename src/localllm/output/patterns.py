"""Regular expressions inside a JSON Schema: those that mean the same to everybody, and do not cost too much."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from localllm.chat.grammar import Grammar
from localllm.errors import InvalidSchemaError, SchemaRegexError
from localllm.output.compiled import check_grammar, matches

MAX_PATTERN = 4_000
"""Characters of one pattern."""

_SETS = re.compile(r"\[[^\]]*(?:&&|--|~~|\[:)")


def check_pattern(pattern: str, path: str) -> None:
    """Raise SchemaRegexError if `pattern` cannot be used."""
    if len(pattern) > MAX_PATTERN:
        raise SchemaRegexError(f"{path} has {len(pattern):,} characters; at most {MAX_PATTERN:,} are taken", path=path)
    if _SETS.search(pattern):
        raise SchemaRegexError(
            f"{path} uses && or -- in [...], which means different things: {pattern!r:.80}", path=path
        )
    problem = _problem(pattern)
    if problem is not None:
        raise SchemaRegexError(f"{path} cannot be used: {pattern!r:.80}: {problem}", path=path)


def fits_pattern(pattern: str, text: str) -> bool:
    """Whether `pattern` is found in `text`, by the rules of generation."""
    return matches(_grammar(pattern), json.dumps(text, ensure_ascii=False)) is None


def fits_format(name: str, text: str) -> bool:
    """Whether `text` is of the format `name`, one of llguidance's own."""
    grammar = Grammar("json_schema", json.dumps({"type": "string", "format": name}))
    return matches(grammar, json.dumps(text, ensure_ascii=False)) is None


def _grammar(pattern: str) -> Grammar:
    return Grammar("json_schema", json.dumps({"type": "string", "pattern": pattern}, ensure_ascii=False))


@lru_cache(maxsize=512)
def _problem(pattern: str) -> str | None:
    try:
        check_grammar(_grammar(pattern))
    except InvalidSchemaError as exc:
        return exc.message
    return None

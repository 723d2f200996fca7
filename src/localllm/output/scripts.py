"""Texts that no model generated, such as a test's script, held to what a reply is to look like."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.output.compiled import matches
from localllm.output.validation import violation


def departure(grammar: Grammar, text: str, *, whole: bool = True) -> str | None:
    """Return None if `text` could stand for a reply under `grammar`, else where and how it departs.

    A text of JSON may spell its value in any way: 1.0 where a model would write 1, properties in another order.

    Args:
        grammar: What a reply must look like.
        text: The text.
        whole: Whether the text is all of the reply; False if it may go on: then it is spelled as a model would do it.

    Returns:
        A reason such as "at index 7, before 'x}': ...", or None.

    Raises:
        InvalidSchemaError: The grammar cannot be used.
    """
    found = matches(grammar, text, whole=whole)
    if found is None or grammar.kind != "json_schema":
        return found
    return None if _has_right_value(text, json.loads(grammar.source)) else found


def _has_right_value(text: str, schema: JsonValue) -> bool:
    """Whether `text` is JSON, and its value is what `schema`, which was made ready, asks for."""
    try:
        value: JsonValue = json.loads(text, parse_float=_finite, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
        return violation(value, schema, schema if isinstance(schema, dict) else {}) is None
    except (ValueError, RecursionError):
        return False


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is none of Python's numbers")

"""A grammar in llguidance's words: alone, or as a rule of a larger one.

Everything is written in llguidance's dialect of Lark (its `docs/syntax.md`), where JSON Schemas (`%json`) and whole
grammars (`%lark`) may stand inside a rule.
"""

from __future__ import annotations

import json
from typing import Literal, assert_never

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidOptionError

Whitespace = Literal["fixed", "any"]
"""How JSON is laid out: on one line as `json.dumps` does it by default, or as anyone likes."""

_ESCAPES = 'nrbtf\\"'
"""What may follow a backslash in generated JSON. Not `u`: with it a key could be spelled another way and so evade its
property's schema, and half a surrogate pair could stand alone."""

_LAYOUTS: dict[Whitespace, dict[str, JsonValue]] = {
    "fixed": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "json_allowed_escapes": _ESCAPES,
    },
    "any": {"whitespace_flexible": True, "json_allow_general_unicode_escapes": True},
}


def to_llguidance(grammar: Grammar, *, whitespace: Whitespace = "fixed") -> str:
    """Return the text that llguidance compiles for `grammar` alone, in its dialect of Lark with the rule `start`.

    Args:
        grammar: What the text must look like.
        whitespace: How JSON is laid out. Models generate it "fixed", which leaves them the least to choose and forces
            the most tokens; texts from elsewhere are held to "any".

    Raises:
        InvalidOptionError: A source that is no JSON where it must be.
    """
    if grammar.kind == "lark":
        return grammar.source
    return lark_rule("start", grammar, whitespace=whitespace)


def lark_rule(name: str, grammar: Grammar, *, whitespace: Whitespace = "fixed") -> str:
    """Return a Lark rule `name` that stands for `grammar`, to be part of a larger grammar.

    Args:
        name: The rule's name, in lower case.
        grammar: What it stands for; a grammar in Lark keeps its own names to itself.
        whitespace: See `to_llguidance`.

    Raises:
        InvalidOptionError: A source that is no JSON where it must be.
    """
    match grammar.kind:
        case "json_schema":
            return f"{name}: %json {_laid_out(grammar.source, whitespace)}"
        case "regex":
            from llguidance import regex_to_lark

            return f"{name}: /{regex_to_lark(grammar.source, '')}/"
        case "choice":
            return f"{name}: {' | '.join(_literal(text) for text in _texts(grammar.source))}"
        case "lark":
            return f"{name}: %lark {{\n{grammar.source}\n}}"
        case _:
            assert_never(grammar.kind)


def _laid_out(source: str, whitespace: Whitespace) -> str:
    """Return a JSON Schema's text with llguidance's own settings in it, ours in place of any that it brings."""
    schema = _loads(source)
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise InvalidOptionError(f"a JSON Schema must be an object or a bool; got {source!r:.80}")
    return json.dumps({**schema, "x-guidance": _LAYOUTS[whitespace]}, ensure_ascii=False)


def _literal(text: str) -> str:
    """Return `text` as a literal of Lark, whose lexer does not know DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _texts(source: str) -> list[str]:
    texts = _loads(source)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidOptionError(f"a choice must be a JSON array of at least one text; got {source!r:.80}")
    return [text for text in texts if isinstance(text, str)]


def _loads(source: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(source)
    except (ValueError, RecursionError) as exc:
        raise InvalidOptionError(f"a grammar's source is no JSON that can be read: {exc}; got {source!r:.80}") from exc
    return value

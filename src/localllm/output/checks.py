"""The one way from a schema, an option or a user's grammar to a `Grammar` that is sure to compile."""

from __future__ import annotations

import json
from functools import lru_cache

from attrs import frozen

from localllm._json import JsonValue
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidSchemaError
from localllm.output.compiled import check_grammar
from localllm.output.plain import plain, pointer
from localllm.output.schema import Schema, canonical, normalized

_MAX_TRIES = 50  # subschemas compiled by themselves, to find the one that cannot be
_MAX_SEARCHED = 20_000  # characters of a schema that is searched for it: compiling a large one takes its time


@frozen(eq=False)
class Rules:
    """A schema that is sure to compile.

    Args:
        given: The schema as given.
        ready: The same, made ready for generation.
        grammar: What a request takes.
    """

    given: Schema
    ready: Schema
    grammar: Grammar


def rules_of(schema: object) -> Rules:
    """Return the rules that `schema` makes.

    Args:
        schema: A JSON Schema: a mapping or a bool.

    Raises:
        InvalidSchemaError: It cannot be enforced, contradicts itself, is beyond the limits, or is no JSON Schema; each
            is a class of its own, and the message has the path.
    """
    given = plain(schema)
    return _rules(json.dumps(given, ensure_ascii=False))


@lru_cache(maxsize=256)
def _rules(text: str) -> Rules:
    given: Schema | bool = json.loads(text)
    ready = normalized(given)
    grammar = Grammar("json_schema", canonical(ready))
    try:
        check_grammar(grammar)
    except InvalidSchemaError as exc:
        path = _culprit(ready) if len(grammar.source) <= _MAX_SEARCHED else ""
        raise type(exc)(f"{path or 'the schema'}: {exc.message}", path=path) from exc
    return Rules(given if isinstance(given, dict) else {}, ready, grammar)


def _culprit(schema: Schema) -> str:
    """Return the path of the innermost subschema that does not compile by itself, as far as that can be told."""
    defs = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    path, tries = "", 0
    node = {keyword: value for keyword, value in schema.items() if keyword != "$defs"}
    while True:
        for below, child in _children(node, path):
            tries += 1
            if tries > _MAX_TRIES:
                return path
            if isinstance(child, dict) and not _compiles({**child, **defs}):
                path, node = below, child
                break
        else:
            return path


def _children(node: Schema, path: str) -> list[tuple[str, JsonValue]]:
    found: list[tuple[str, JsonValue]] = []
    for keyword, value in node.items():
        here = pointer(path, keyword)
        match keyword, value:
            case (("properties" | "patternProperties"), dict()):
                found += [(pointer(here, name), child) for name, child in value.items()]
            case (("allOf" | "anyOf" | "prefixItems"), list()):
                found += [(pointer(here, index), child) for index, child in enumerate(value)]
            case (("items" | "additionalProperties"), _):
                found.append((here, value))
            case _:
                pass
    return found


def _compiles(schema: Schema) -> bool:
    try:
        check_grammar(Grammar("json_schema", canonical(schema)))
    except InvalidSchemaError:
        return False
    return True

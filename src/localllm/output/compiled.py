"""Grammars compiled by llguidance over a vocabulary of bytes: to check them before generation, and texts against them.

An engine compiles the same text for its model's vocabulary; what compiles here does so there, within the same limits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from localllm.chat.grammar import Grammar
from localllm.errors import (
    InvalidSchemaError,
    SchemaRegexError,
    SchemaTooCostlyError,
    SchemaTooDeepError,
    SchemaTooLargeError,
    UnsatisfiableSchemaError,
    UnsupportedSchemaError,
)
from localllm.output.grammars import Whitespace, to_llguidance
from localllm.output.plain import MAX_CHARS

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

_END = 256  # the one token beside the 256 bytes

_ESCAPED = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^u])", re.DOTALL)

_COSTS = ("too many", "too large", "fuel", "limit", "too big", "exceeds", "max is", "too complex")
"""What llguidance's messages hold when a limit of ours is met."""


def parser_limits() -> LLParserLimits:
    """Return what compiling a grammar and computing a mask may cost, in llguidance's units.

    A step's limits are its defaults (50 ms or so); a third of them is left for what is prepared once.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(initial_lexer_fuel=1_000_000, max_lexer_states=100_000, max_grammar_size=200_000)


def check_grammar(grammar: Grammar) -> None:
    """Raise if `grammar` cannot be compiled, is beyond the limits, or matches nothing.

    Raises:
        SchemaTooLargeError, SchemaTooDeepError, SchemaTooCostlyError: It is beyond the limits.
        SchemaRegexError: A regular expression is broken, or uses lookaround or the like.
        UnsupportedSchemaError: llguidance refuses it for another reason; its words are in the message.
        UnsatisfiableSchemaError: No text matches it.
    """
    _compiled(grammar, "fixed")


def matches(grammar: Grammar, text: str, *, whole: bool = True, whitespace: Whitespace = "any") -> str | None:
    """Return None if `text` is what `grammar` asks for, else where and how it departs.

    Args:
        grammar: What the text must look like.
        text: The text. Whitespace around JSON is no matter.
        whole: Whether the text is all of the reply; False if it may go on.
        whitespace: How JSON is laid out; see `to_llguidance`.

    Returns:
        A reason such as "at index 7, before 'x}': ...", or None.

    Raises:
        InvalidSchemaError: The grammar cannot be used.
    """
    matcher = _compiled(grammar, whitespace).deep_copy()
    pieces = _json_pieces(text) if grammar.kind == "json_schema" and whitespace == "any" else [(0, text)]
    for start, piece in pieces:
        given = piece.encode("utf-8", "surrogatepass")
        read = matcher.try_consume_tokens(list(given)) if given else 0
        if read < len(given):
            index = start + len(given[:read].decode("utf-8", "ignore"))
            return f"at index {index}, before {text[index : index + 20]!r}: the grammar wants {_wanted(matcher)}"
    if whole and not matcher.is_accepting():
        return f"at index {len(text)}, where the text ends: the grammar wants {_wanted(matcher)}"
    return None


def _json_pieces(text: str) -> list[tuple[int, str]]:
    """Return JSON text without whitespace around it and without needless escapes, in pieces with their indices.

    Generated text has no escape where a character can stand for itself; other programs write `\\u00e9` and `\\/`.
    """
    start = len(text) - len(text.lstrip(" \t\r\n"))
    end = max(start, len(text.rstrip(" \t\r\n")))
    pieces = []
    for found in _ESCAPED.finditer(text, start, end):
        pieces += [(start, text[start : found.start()]), (found.start(), _unescaped(found[0]))]
        start = found.end()
    return [*pieces, (start, text[start:end])]


def _unescaped(escape: str) -> str:
    if escape == "\\/":
        return "/"
    if escape[1] != "u":
        return escape
    char = str(json.loads(f'"{escape}"'))
    return escape if char in '"\\' or not "\x20" <= char != "\x7f" or "\ud800" <= char <= "\udfff" else char


def _wanted(matcher: LLMatcher) -> str:
    """Say which characters could come next."""
    forced = matcher.compute_ff_bytes().decode("utf-8", "replace")
    if forced:
        return repr(forced[:40])
    mask = matcher.compute_bitmask()
    chars = [chr(byte) for byte in range(32, 127) if mask[byte // 8] >> byte % 8 & 1]
    if not chars:
        return "the end" if matcher.is_accepting() else "something else"
    shown = repr("".join(chars)) if len(chars) <= 24 else "other text"
    return f"one of {shown}" if len(chars) <= 24 else shown


class _Bytes:
    """A vocabulary in which each byte is a token, as llguidance asks for one."""

    eos_token_id = _END
    bos_token_id = None
    tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids: Sequence[int] = (_END,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=_END + 1, eos_token=_END, slices=[])


@lru_cache(maxsize=64)
def _compiled(grammar: Grammar, whitespace: Whitespace) -> LLMatcher:
    """Return a matcher at the beginning, for copying."""
    from llguidance import LLMatcher

    if len(grammar.source) > MAX_CHARS:
        raise SchemaTooLargeError(
            f"the grammar has {len(grammar.source):,} characters; at most {MAX_CHARS:,} are taken"
        )
    source = to_llguidance(grammar, whitespace=whitespace)
    matcher = LLMatcher(_byte_tokenizer(), source, log_level=0, limits=parser_limits())
    if not matcher.is_error():
        first = matcher.deep_copy()
        mask = first.compute_bitmask()
        if not first.is_error() and not any(mask) and not first.is_accepting():
            raise UnsatisfiableSchemaError("nothing could ever match it: no text can even begin")
        matcher = matcher if not first.is_error() else first
    if matcher.is_error():
        raise _error(matcher.get_error(), grammar)
    return matcher


def _error(message: str, grammar: Grammar) -> InvalidSchemaError:
    """Return our error for llguidance's `message`."""
    said = _words(message)
    low = said.casefold()
    if "recursion limit" in low:
        return SchemaTooDeepError(f"the schema is nested too deep: {said}")
    if "unsatisfiable" in low or "regex is empty" in low or "noextension" in low:
        return UnsatisfiableSchemaError(f"nothing could ever match it: {said}")
    if "regex parse error" in low or "lookaround" in low or "invalid regex" in low or "look-around" in low:
        return SchemaRegexError(f"the regular expression cannot be used: {said}")
    if any(part in low for part in _COSTS):
        kind = SchemaRegexError if grammar.kind == "regex" else SchemaTooCostlyError
        return kind(f"it takes too much work to prepare: {said}")
    return UnsupportedSchemaError(f"it cannot be enforced: {said}")


def _words(message: str) -> str:
    """Return the part of llguidance's message that a person can use."""
    lines = [line.strip() for line in message.split("\n   1 |")[0].split("<state>")[0].splitlines()]
    text = " ".join(line for line in lines if line and set(line) - set("^ "))
    return text.removeprefix("at 1(8): ").removeprefix("failed to compile JSON schema: ")[:300]

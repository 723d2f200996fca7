"""A model's grammars: each compiled once, and remembered; every request gets a copy at its beginning."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.completing import SpelledWord, Spelling
from localllm.backends.llamacpp.constraint import GrammarConstraint, said
from localllm.backends.llamacpp.grammar_tokens import GrammarTokens
from localllm.chat.lru import Lru
from localllm.errors import InvalidPromptError, InvalidSchemaError, SchemaTooCostlyError
from localllm.output.compiled import parser_limits

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST_GRAMMARS = 64
"""Grammars that are remembered: some hundred kilobytes each when they have been used a lot (a guess)."""

_COSTS = ("limit", "too big", "too large", "too many", "too complex", "fuel", "exceed")
"""What llguidance's messages hold when a limit is met."""


class Grammars:
    """Compiles grammars for one model. Safe from any thread; not for the engine's, since it takes its time.

    Args:
        native: The model.
        special: Tokens that content must never become.
        encode_plain: Tokenizes a text so that none of these comes out.
    """

    def __init__(
        self, native: NativeModel, special: frozenset[int], encode_plain: Callable[[str], Sequence[int]]
    ) -> None:
        self._native = native
        self._special = special
        self._encode_plain = encode_plain
        self._compiled: Lru[str, LLMatcher] = Lru(_MOST_GRAMMARS)
        self._tokens: GrammarTokens | None = None
        self._spelling = Spelling(native, special)
        self._preparing = threading.Lock()

    def has(self, source: str) -> bool:
        """Whether a grammar is compiled, so that a constraint costs nothing."""
        return self._compiled.get(source) is not None

    def constraint(self, source: str, prefix: str = "") -> GrammarConstraint:
        """Return what holds a reply to a grammar.

        Args:
            source: The grammar, as llguidance reads it.
            prefix: What the reply begins with already.

        Raises:
            InvalidSchemaError: The grammar cannot be compiled; SchemaTooCostlyError if it is beyond the limits.
            InvalidPromptError: No text that the grammar allows begins with the prefix.
            BackendUnavailableError: llguidance is missing.
        """
        tokens = self._prepared()
        matcher = self._compiled.get(source)
        if matcher is None:
            matcher = _compile(source, tokens)
            self._compiled.put(source, matcher, 1)
        constraint = GrammarConstraint(matcher.deep_copy(), tokens, lambda: self._compiled.drop(source))
        if prefix:
            _begin(constraint, tokens, prefix)
        return constraint

    def spelled(self, word: str) -> SpelledWord:
        """Return what holds a completion to begin with `word`, which may be empty, and to end with the turn."""
        return SpelledWord(word, self._spelling)

    def _prepared(self) -> GrammarTokens:
        with self._preparing:
            if self._tokens is None:
                self._tokens = GrammarTokens(self._native, self._special, self._encode_plain)
            return self._tokens


def _compile(source: str, tokens: GrammarTokens) -> LLMatcher:
    from llguidance import LLMatcher

    matcher = LLMatcher(tokens.tokenizer, source, log_level=0, limits=parser_limits())
    # Copies share what the lexer has found out, so that the first mask, the dearest, costs the engine nothing.
    first = matcher.deep_copy()
    first.compute_bitmask()
    if first.is_error():
        error = said(first)
        if any(part in error.casefold() for part in _COSTS):
            raise SchemaTooCostlyError(f"the grammar takes more work to prepare than the limits allow: {error}")
        raise InvalidSchemaError(f"the grammar cannot be used: {error}")
    return matcher


def _begin(constraint: GrammarConstraint, tokens: GrammarTokens, prefix: str) -> None:
    given = tokens.tokenizer.tokenize_str(prefix)
    fitting = constraint.fitting(given)
    if fitting < len(given):
        fits = tokens.tokenizer.decode_bytes(given[:fitting]).decode("utf-8", "replace")
        raise InvalidPromptError(
            f"the reply's prefix {prefix!r:.80} is not what its grammar asks for: it departs from it after {fits!r:.80}"
        )
    constraint.accept(given)

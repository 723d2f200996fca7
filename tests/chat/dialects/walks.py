"""Random walks through a grammar, over a vocabulary of bytes and of a family's control tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import llguidance
from attrs import frozen

from localllm.chat.dialects import Dialect

_END = 256


class _Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, special: Sequence[str]) -> None:
        self.eos_token_id = _END
        self.bos_token_id = None
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"<eos>"] + [text.encode() for text in special]
        self.special_token_ids = list(range(_END, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@frozen(eq=False)
class Vocabulary:
    """Bytes, an end, and control tokens.

    Args:
        special: The control tokens, by text.
        tokenizer: The same for llguidance.
    """

    special: Mapping[str, int]
    tokenizer: llguidance.LLTokenizer

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens spelled out."""
        spelled = {token: text.encode() for text, token in self.special.items()}
        return b"".join(spelled.get(token) or bytes([token]) for token in tokens if token != _END).decode()

    def tokens_of(self, text: str) -> list[int]:
        """Return the tokens of a text of ours."""
        tokens: list[int] = []
        while text:
            mark = next((mark for mark in self.special if text.startswith(mark)), None)
            tokens += list(text[0].encode()) if mark is None else [self.special[mark]]
            text = text[1:] if mark is None else text[len(mark) :]
        return tokens


def vocabulary(dialect: Dialect, *, control: bool) -> Vocabulary:
    """Return a vocabulary in which the family's marks are control tokens, or none are."""
    special = dialect.markers if control else ()
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(special)))
    return Vocabulary({text: _END + 1 + index for index, text in enumerate(special)}, tokenizer)


def walk(source: str, words: Vocabulary, hints: Sequence[str], seed: int, limit: int = 3000) -> str | None:
    """Return a random text of the grammar; None if it does not end within `limit` tokens.

    Args:
        source: The grammar.
        words: The vocabulary.
        hints: Texts that are tried now and then, for bytes at random never spell a mark.
        seed: Of the random numbers.
        limit: The most tokens.
    """
    chance = random.Random(seed)
    matcher = llguidance.LLMatcher(words.tokenizer, source, log_level=0)
    assert not matcher.is_error(), f"{matcher.get_error()}\n{source}"
    made: list[int] = []
    while len(made) < limit:
        mask = matcher.compute_logit_bias()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [token for token in range(len(mask)) if mask[token]]
        if _END in allowed and (len(allowed) == 1 or chance.random() < 0.3):
            return words.text_of(made)
        hint = words.tokens_of(chance.choice(hints)) if hints and chance.random() < 0.3 else []
        if hint and matcher.validate_tokens(hint) == len(hint):
            chosen = hint
        else:
            chosen = [chance.choice(_likely(allowed, chance))]
        assert matcher.consume_tokens(chosen), matcher.get_error()
        made += chosen
    return None


_CLOSING = frozenset(b'"]}),\n<')
_PLAIN = frozenset(b' abz19<"\\n{}[],:')


def _likely(allowed: list[int], chance: random.Random) -> list[int]:
    """Return the tokens to choose from: few letters, and what ends things, so that a walk does."""
    kept = [token for token in allowed if token != _END]
    closing = [token for token in kept if token > _END or token in _CLOSING]
    if closing and chance.random() < 0.5:
        return closing
    plain = [token for token in kept if token in _PLAIN]
    return plain if plain and chance.random() < 0.95 else kept

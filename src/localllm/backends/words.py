"""A tokenizer of words, for backends that have none: reversible for any text, and small.

It is made like a real one: common pieces have a token each, anything else is spelled in bytes, and control tokens are
tokens that no plain text ever becomes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from threading import Lock

from localllm._json import check_text
from localllm.errors import InvalidOptionError

TURN_BEGIN = "<|im_start|>"
TURN_END = "<|im_end|>"

_BYTES = 256
_CONTROLS = (TURN_BEGIN, TURN_END)
_MAX_WORDS = 65_536  # about 8 MB; later words are spelled in bytes, so that no text can make memory grow for ever
_WORD = re.compile(r"\s{0,8}\S{1,24}|\s{1,32}")


def split_words(text: str) -> list[str]:
    """Cut `text` into words, each with the white space before it; joined they are `text` again."""
    return _WORD.findall(text)


class Tokenizer(ABC):
    """Text to tokens and back. Called from any thread, from several at once."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Count of tokens in the vocabulary: every id is below it."""

    @abstractmethod
    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text: control tokens are never parsed."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, broken UTF-8 replaced by U+FFFD.

        Raises:
            InvalidOptionError: A token is not in the vocabulary.
        """

    def encode_control(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text`, which a template wrote; here as plain text, for want of control tokens."""
        return self.encode(text)


class WordTokenizer(Tokenizer):
    """A token for each word, learned as words come by; ids are valid for this tokenizer only."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pieces = [bytes([byte]) for byte in range(_BYTES)] + [text.encode() for text in _CONTROLS]
        self._controls = {text: _BYTES + index for index, text in enumerate(_CONTROLS)}
        self._ids: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Count of tokens that it may come to know."""
        return _BYTES + len(_CONTROLS) + _MAX_WORDS

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text.

        Raises:
            PromptTypeError: It is no str.
            InvalidPromptError: It holds a lone surrogate.
        """
        tokens: list[int] = []
        for word in split_words(check_text(text, "the text")):
            token = self._ids.get(word)
            tokens.extend(self._learn(word) if token is None else (token,))
        return tuple(tokens)

    def encode_control(self, text: str) -> tuple[int, ...]:
        """Return the one token of a control text; other text is encoded as plain text."""
        token = self._controls.get(text)
        return self.encode(text) if token is None else (token,)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out.

        Raises:
            InvalidOptionError: A token is not in the vocabulary, or has not been handed out yet.
        """
        known = len(self._pieces)
        given: Sequence[object] = tokens  # what users pass may be anything
        for token in given:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < known:
                raise InvalidOptionError(f"no such token: {token!r:.80}; this model has handed out 0 to {known - 1}")
        return b"".join([self._pieces[token] for token in tokens]).decode("utf-8", "replace")

    def _learn(self, word: str) -> tuple[int, ...]:
        with self._lock:
            if word in self._ids:  # another thread was first
                return (self._ids[word],)
            if len(self._ids) == _MAX_WORDS:
                return tuple(word.encode())
            self._pieces.append(word.encode())  # before its id is known, so that `decode` never misses it
            self._ids[word] = len(self._pieces) - 1
            return (self._ids[word],)

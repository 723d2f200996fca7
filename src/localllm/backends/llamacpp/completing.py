"""How a user's unfinished text is gone on with: from the beginning of its last word, which the model spells anew.

A fragment such as "capi" has tokens that no word which begins like this has: "capital" is one token, and after "cap"
and "i" a model hardly knows how to go on. So the last word's tokens are taken off the prompt, and what is generated is
held to begin with their text, whatever tokens it takes. That text is not delivered.

(The idea is known as token healing. Of 13 fragments a model of 135M parameters went on with sense in 5 without it, in
11 where only the last token was taken off, and in all where the last word was.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.constraint import MaskConstraint
from localllm.types import TextDelta, ToolCall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_TOKENS = 4
"""Tokens of the last word that are taken off at most (a guess): scripts without spaces have words without end."""


def last_word(
    tokens: Sequence[int], own_chars: int, decode: Callable[[Sequence[int]], str], special: Collection[int]
) -> tuple[int, str]:
    """Return how many tokens at a prompt's end make its last word, with the space before it, and their text.

    Args:
        tokens: The prompt's; one at least is left of them.
        own_chars: Characters at its end that are the user's; the space before these may be the vocabulary's.
        decode: Returns the text of tokens, with U+FFFD for a character that they have only a part of.
        special: Tokens that are never taken off.
    """
    found, word = 0, ""
    for count in range(1, min(_MOST_TOKENS, len(tokens) - 1) + 1):
        text = decode(tokens[-count:])
        before = text.removesuffix(word)
        if tokens[-count] in special or len(text.lstrip()) > own_chars or (word and "\n" in before):
            break
        if "\ufffd" not in text:
            found, word = count, text
            if text[:1].isspace() or len(text) >= own_chars:
                break
    return found, word


class Spelling:
    """Finds the tokens that texts can be spelled with. Safe from any thread; the model outlives it.

    Args:
        native: The model.
        special: Tokens that stand for no text of a user's.
    """

    def __init__(self, native: NativeModel, special: Collection[int]) -> None:
        self.special = special
        self._native = native
        self._tokens: dict[bytes, list[int]] | None = None  # by the first two bytes of their text, or its only one
        self._lock = Lock()

    def prepare(self) -> None:
        """Sort the vocabulary, unless that is done: a tenth of a second, or a few where it is large."""
        with self._lock:
            if self._tokens is None:
                tokens: dict[bytes, list[int]] = defaultdict(list)
                for token in range(self._native.n_vocab):
                    piece = self._native.piece(token)
                    if piece and token not in self.special:
                        tokens[piece[:2]].append(token)
                self._tokens = dict(tokens)

    def first(self, rest: bytes) -> NDArray[np.bool_]:
        """Return for each token whether a text can begin with it that begins with `rest`, or is a beginning of it."""
        import numpy as np

        self.prepare()
        tokens = self._tokens or {}
        starts = [rest[:2], rest[:1]] if len(rest) > 1 else [start for start in tokens if start[:1] == rest]
        piece = self._native.piece
        fitting = [
            token
            for start in starts
            for token in tokens.get(start, ())
            if piece(token).startswith(rest) or rest.startswith(piece(token))
        ]
        mask = np.zeros(self._native.n_vocab, dtype=np.bool_)
        mask[fitting] = True
        return mask

    def text(self, token: int) -> bytes:
        """Return a token's text."""
        return self._native.piece(token)


class SpelledWord(MaskConstraint):
    """Holds a completion to begin with a word, and ends it at the first control token. One thread at a time.

    Args:
        word: The word.
        spelling: Finds tokens; the first question is asked here, so that the engine's thread need not wait for it.
    """

    def __init__(self, word: str, spelling: Spelling) -> None:
        self._rest = word.encode()
        self._spelling = spelling
        self._mask = spelling.first(self._rest) if self._rest else None
        self.stopped: bool = self._is_stuck

    def accept(self, tokens: Sequence[int]) -> None:
        """Take note of what was generated."""
        for token in tokens:
            if token in self._spelling.special:  # the turn is over: templates close it in many ways
                self.stopped = True
            elif self._rest:
                self._rest = self._rest[len(self._spelling.text(token)) :]
                self._mask = self._spelling.first(self._rest) if self._rest else None
                self.stopped = self._is_stuck

    def allows(self, tokens: Sequence[int]) -> bool:
        """Whether these may follow; asked for the ends of thoughts only, and there are none in a user's text."""
        return not self._rest

    def forced(self) -> Sequence[int]:
        """Return nothing: a word may be spelled in several ways, and which one is best is for the model to say."""
        return ()

    def prepare(self) -> None:
        """Do nothing: all is prepared."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Return for each token whether it may follow; None if any may."""
        return self._mask

    @property
    def _is_stuck(self) -> bool:
        """Whether the word cannot be spelled to its end, as in a vocabulary that lacks one of its characters."""
        return self._mask is not None and not self._mask.any()


class WithoutWord:
    """A `localllm.engine.fold.Fold` that leaves out the word that a completion begins with; the rest is all text.

    Args:
        word: The word.
    """

    def __init__(self, word: str) -> None:
        self._left = len(word)

    @property
    def thinking(self) -> bool:
        """No."""
        return False

    @property
    def close_thought(self) -> str:
        """Nothing."""
        return ""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """None."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """None."""
        return ()

    @property
    def taken_chars(self) -> int:
        """None."""
        return 0

    def push(self, text: str) -> Sequence[TextDelta]:
        """Read on."""
        told, self._left = text[self._left :], max(self._left - len(text), 0)
        return [TextDelta(told)] if told else []

    def flush(self) -> Sequence[TextDelta]:
        """Return nothing: nothing is held back."""
        return ()

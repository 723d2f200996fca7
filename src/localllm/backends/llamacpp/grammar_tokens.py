"""A model's vocabulary as llguidance needs it: prepared once a model, which takes a third of a second or more."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.errors import BackendUnavailableError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_SPECIAL = b"\xff"  # what llguidance takes for the beginning of a token that stands for no text
_TOKENIZE = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_char),
    ctypes.c_int32,
    ctypes.POINTER(ctypes.c_int32),
    ctypes.c_int32,
    ctypes.c_bool,
    ctypes.c_bool,
)
"""The type of `llama_tokenize`, which llguidance calls."""


class GrammarTokens:
    """A vocabulary, prepared. Safe from any thread; the model outlives it.

    Preparing holds the interpreter's lock for most of its time, in two parts: llguidance does not let go of it.

    Args:
        native: The model.
        special: Tokens that content must never become. A grammar may ask for one by its number; no text is made of it.
        encode_plain: Tokenizes a text so that none of these comes out.

    Raises:
        BackendUnavailableError: llguidance is missing or does not load.
    """

    def __init__(
        self, native: NativeModel, special: frozenset[int], encode_plain: Callable[[str], Sequence[int]]
    ) -> None:
        try:
            from llguidance import LLTokenizer
        except ImportError as exc:
            raise BackendUnavailableError(
                'replies that follow a schema or a grammar need llguidance: pip install "localllm[llama]" '
                f"(importing it failed: {exc})"
            ) from exc
        self.n_vocab: int = native.n_vocab
        self._native = native
        self._encode_plain = encode_plain
        self._special = special
        self._tokenize = _TOKENIZE(self._tokenized)  # llguidance keeps the address only
        bare = LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]  # its type stub leaves it out
            tokens=[self._text(token) for token in range(native.n_vocab)],
            vocab_ptr=native.vocab,
            tokenize_fptr=ctypes.cast(self._tokenize, ctypes.c_void_p).value,
            eos_token=[token for token in range(native.n_vocab) if native.is_end(token)],
            slices=[],
        )
        self.tokenizer: LLTokenizer = bare.with_slices(LLTokenizer.general_slices())

    def _encode(self, text: str) -> Sequence[int]:
        tokens = self._native.tokenize(text, parse_special=False)
        # llama.cpp makes user-defined tokens of their texts, asked for or not
        return tokens if self._special.isdisjoint(tokens) else self._encode_plain(text)

    def _text(self, token: int) -> bytes:
        text = self._native.detokenize((token,))
        return _SPECIAL + text if token in self._special else text

    def _tokenized(
        self,
        _vocab: int,
        data: ctypes._Pointer[ctypes.c_char],
        size: int,
        tokens: ctypes._Pointer[ctypes.c_int32],
        most: int,
        _add_special: bool,
        _parse_special: bool,
    ) -> int:
        """Tokenize as `llama_tokenize` does: the count, or minus the count where there is no room for so many."""
        found = self._encode(ctypes.string_at(data, size).decode("utf-8", "replace"))
        if len(found) > most:
            return -len(found)
        for place, token in enumerate(found):
            tokens[place] = token
        return len(found)

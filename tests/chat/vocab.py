"""Real vocabularies for the tests, through llama-cpp-python's low-level bindings and nothing of localllm's."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import llama_cpp

from localllm.chat.vocabulary import is_structure

_UNKNOWN, _CONTROL, _USER_DEFINED = 1, 8, 16


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Swallow what llama.cpp says. Kept for the whole process: a collected callback would kill it."""


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))


class LlamaVocabulary:
    """A `localllm.chat.vocabulary.Vocabulary` read from a GGUF file without its weights.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem.removeprefix("ggml-vocab-")
        self.model_hash = f"hash of {self.name}"
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RuntimeError(f"cannot load {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        bos, eos = llama_cpp.llama_vocab_bos(self._vocab), llama_cpp.llama_vocab_eos(self._vocab)
        self.bos_id: int | None = bos if bos >= 0 else None
        self.bos_text = self.text(bos) if bos >= 0 else ""
        self.eos_text = self.text(eos) if eos >= 0 else ""
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.control_tokens: dict[str, int] = {}
        self.special_tokens: Mapping[str, int] = self._special()
        self.calls = 0

    def _special(self) -> dict[str, int]:
        attribute, ends = llama_cpp.llama_vocab_get_attr, llama_cpp.llama_vocab_is_eog
        marked = _UNKNOWN | _CONTROL | _USER_DEFINED
        found = [i for i in range(self.size) if attribute(self._vocab, i) & marked or ends(self._vocab, i)]
        special = {}
        for token in found:
            text = self.text(token)
            if attribute(self._vocab, token) & (_UNKNOWN | _CONTROL) or ends(self._vocab, token):
                self.control_tokens[text] = special[text] = token
            elif is_structure(text):
                special[text] = token
        return special

    def text(self, token: int) -> str:
        """Return how the vocabulary spells a token."""
        spelling: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return spelling.decode(errors="replace")

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of `text`, none added."""
        self.calls += 1
        data = text.encode()
        tokens = (llama_cpp.llama_token * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, len(tokens), False, parse_special)
        assert count >= 0
        return list(tokens[:count])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out."""
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        buffer = ctypes.create_string_buffer(64 + 32 * len(tokens))
        while True:
            size = llama_cpp.llama_detokenize(self._vocab, array, len(tokens), buffer, len(buffer), False, True)
            if size >= 0:
                return buffer.raw[:size].decode(errors="replace")
            buffer = ctypes.create_string_buffer(-size)


@cache
def load(path: Path) -> LlamaVocabulary:
    """Return the vocabulary in a file; each is loaded once and kept."""
    return LlamaVocabulary(path)

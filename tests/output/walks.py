"""Texts that a grammar lets through, by random walks over llguidance's masks, a byte at a time."""

from __future__ import annotations

import random
from functools import lru_cache

import llguidance

from localllm.chat.grammar import Grammar
from localllm.output.grammars import to_llguidance

_END = 256


class _Bytes:
    eos_token_id = _END
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (_END,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def _tokenizer() -> llguidance.LLTokenizer:
    wrapper = llguidance.TokenizerWrapper(_Bytes())
    return llguidance.LLTokenizer(wrapper, n_vocab=_END + 1, eos_token=_END, slices=[])


def walk(grammar: Grammar, seed: int, limit: int = 400) -> str | None:
    """A text that `grammar` accepts, as generation lays it out; None if it was not whole after `limit` bytes."""
    choose = random.Random(seed)
    matcher = llguidance.LLMatcher(_tokenizer(), to_llguidance(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    text = bytearray()
    while len(text) < limit:
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [byte for byte in range(256) if mask[byte // 8] >> byte % 8 & 1]
        if matcher.is_accepting() and (not allowed or choose.random() < 0.5):
            return text.decode()
        assert allowed, f"nowhere to go after {bytes(text)!r}"
        endings = [byte for byte in allowed if byte in b'"}]']
        hurried = endings and choose.random() < len(text) / limit + 0.1
        byte = choose.choice(endings if hurried else allowed)
        assert matcher.consume_token(byte)
        text.append(byte)
    return None


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether `grammar` accepts `text` as generation lays it out."""
    matcher = llguidance.LLMatcher(_tokenizer(), to_llguidance(grammar), log_level=0)
    given = list(text.encode())
    return matcher.try_consume_tokens(given) == len(given) and matcher.is_accepting()

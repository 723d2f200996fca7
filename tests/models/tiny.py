"""Writes tiny GGUF models that llama.cpp loads and decodes: random weights, a byte-level vocabulary, under a megabyte.

    path = write_tiny_llama(tmp_path / "tiny.gguf", vocab="bpe", seed=1)

The text that such a model generates is noise, and the same noise for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from numpy.typing import NDArray

Vocab = Literal["bpe", "spm", "none"]
Quantization = Literal["F32", "F16", "Q8_0"]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template that tiny models have unless told otherwise."""

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The first tokens of the "bpe" vocabulary, and those of "spm" after <unk>, <s> and </s>."""

_WORDS = ("th", "he", "the", "in", "er", "an", "and", "on", "hello", "world", "blue", "sky")
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def write_tiny_llama(
    path: Path,
    *,
    vocab: Vocab = "bpe",
    seed: int = 0,
    chat_template: str | None = CHATML,
    quantization: Quantization = "F32",
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 96,
    n_ctx: int = 512,
    n_expert: int = 0,
    n_expert_used: int = 2,
    name: str = "Tiny",
    architecture: str = "llama",
    extra: Mapping[str, int | float | str | bool] | None = None,
) -> Path:
    """Write a model of the llama architecture to `path` and return it.

    Args:
        path: Where to; replaced if it is there.
        vocab: "bpe" (GPT-2's bytes and a few merges), "spm" (SentencePiece with bytes), or "none" (no vocabulary).
        seed: Of the random weights.
        chat_template: Jinja source, or None for a model without one.
        quantization: Of the matrices.
        n_layer: Layers.
        n_embd: Width of the embeddings; a multiple of 32 for "Q8_0".
        n_head: Attention heads; they divide `n_embd`.
        n_head_kv: Heads of keys and values; they divide `n_head`.
        n_ff: Width of the feed-forward layers; a multiple of 32 for "Q8_0".
        n_ctx: The context length that the header claims, in tokens.
        n_expert: Experts in each feed-forward layer; 0 for a dense model.
        n_expert_used: Experts that each token goes through, when there are any.
        name: `general.name`.
        architecture: Another one of llama.cpp's that has the same tensors, such as "granite" or "xverse".
        extra: More metadata: booleans, strings, floats (FLOAT32) and integers (UINT32) by key.
    """
    model = _TinyWriter(path, architecture)
    model.add_hyperparameters(
        name=name,
        file_type={"F32": 0, "F16": 1, "Q8_0": 7}[quantization],
        context_length=n_ctx,
        embedding_length=n_embd,
        block_count=n_layer,
        feed_forward_length=n_ff,
        head_count=n_head,
        head_count_kv=n_head_kv,
        layer_norm_rms_eps=1e-5,
        rope_dimension_count=n_embd // n_head,
        rope_freq_base=10000.0,
    )
    if n_expert:
        model.add_hyperparameters(expert_count=n_expert, expert_used_count=n_expert_used)
    n_vocab = {"bpe": model.add_bpe, "spm": model.add_spm, "none": model.add_nothing}[vocab]()
    if chat_template is not None:
        model.add_hyperparameters(chat_template=chat_template)
    model.add_extra(extra or {})
    rng = np.random.default_rng(seed)
    gqa = n_embd // n_head * n_head_kv
    for tensor, shape in _matrices(n_vocab, n_layer, n_embd, gqa, n_ff, n_expert).items():
        if len(shape) == 1:
            model.add_matrix(tensor, np.ones(shape, dtype=np.float32), "F32")
        else:
            model.add_matrix(tensor, rng.normal(0, 0.4, shape).astype(np.float32), quantization)
    model.write()
    return path


def _matrices(
    n_vocab: int, n_layer: int, n_embd: int, gqa: int, n_ff: int, n_expert: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors, numpy's way (the contiguous dimension last)."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_vocab, n_embd),
        "output_norm.weight": (n_embd,),
        "output.weight": (n_vocab, n_embd),
    }
    for layer in range(n_layer):
        block = f"blk.{layer}."
        shapes |= {
            block + "attn_norm.weight": (n_embd,),
            block + "attn_q.weight": (n_embd, n_embd),
            block + "attn_k.weight": (gqa, n_embd),
            block + "attn_v.weight": (gqa, n_embd),
            block + "attn_output.weight": (n_embd, n_embd),
            block + "ffn_norm.weight": (n_embd,),
        }
        if n_expert:
            shapes |= {
                block + "ffn_gate_inp.weight": (n_expert, n_embd),
                block + "ffn_gate_exps.weight": (n_expert, n_ff, n_embd),
                block + "ffn_up_exps.weight": (n_expert, n_ff, n_embd),
                block + "ffn_down_exps.weight": (n_expert, n_embd, n_ff),
            }
        else:
            shapes |= {
                block + "ffn_gate.weight": (n_ff, n_embd),
                block + "ffn_up.weight": (n_ff, n_embd),
                block + "ffn_down.weight": (n_embd, n_ff),
            }
    return shapes


def byte_characters() -> list[str]:
    """Return the 256 characters that GPT-2's vocabulary writes bytes as: printable ones as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


class _TinyWriter:
    """Writes the parts of a model with the gguf package."""

    def __init__(self, path: Path, architecture: str) -> None:
        self._writer = gguf.GGUFWriter(path, architecture)

    def add_hyperparameters(self, **values: int | float | str) -> None:
        """Add metadata by the names of the gguf package's methods."""
        for name, value in values.items():
            getattr(self._writer, f"add_{name}")(value)

    def add_extra(self, extra: Mapping[str, int | float | str | bool]) -> None:
        """Add the caller's own metadata."""
        for key, value in extra.items():
            if isinstance(value, bool):
                self._writer.add_bool(key, value)
            elif isinstance(value, int):
                self._writer.add_uint32(key, value)
            elif isinstance(value, float):
                self._writer.add_float32(key, value)
            else:
                self._writer.add_string(key, value)

    def add_matrix(self, name: str, weights: NDArray[np.float32], quantization: Quantization) -> None:
        """Add a tensor, stored as `quantization` says; the router of experts stays in F32, as in real models."""
        if quantization == "F16" and "gate_inp" not in name:
            self._writer.add_tensor(name, weights.astype(np.float16))
        elif quantization == "Q8_0" and "gate_inp" not in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            self._writer.add_tensor(name, gguf.quants.quantize(weights, kind), raw_dtype=kind)
        else:
            self._writer.add_tensor(name, weights)

    def add_nothing(self) -> int:
        """Add no vocabulary, only its size; return the count of tokens."""
        self.add_hyperparameters(vocab_size=256)
        return 256

    def add_bpe(self) -> int:
        """Add GPT-2's byte vocabulary with a few merges; return the count of tokens."""
        tokens = [*CONTROL_TOKENS, *byte_characters()]
        merges: list[str] = []
        for word in _WORDS:
            for end in range(2, len(word) + 1):
                if word[:end] not in tokens:
                    tokens.append(word[:end])
                    merges.append(f"{word[: end - 1]} {word[end - 1]}")
        types = [_CONTROL] * len(CONTROL_TOKENS) + [_NORMAL] * (len(tokens) - len(CONTROL_TOKENS))
        self.add_hyperparameters(tokenizer_model="gpt2", tokenizer_pre="smollm")
        self._writer.add_token_list(tokens)
        self._writer.add_token_types(types)
        self._writer.add_token_merges(merges)
        self.add_hyperparameters(bos_token_id=1, eos_token_id=2, unk_token_id=0, pad_token_id=2, add_bos_token=False)
        return len(tokens)

    def add_spm(self) -> int:
        """Add a SentencePiece vocabulary with all bytes; return the count of tokens."""
        pieces = [*"▁abcdefghijklmnopqrstuvwxyz", *_WORDS, *(f"▁{word}" for word in _WORDS)]
        tokens = ["<unk>", "<s>", "</s>", *CONTROL_TOKENS[1:], *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
        self.add_hyperparameters(tokenizer_model="llama", tokenizer_pre="default")
        self._writer.add_token_list(tokens)
        self._writer.add_token_scores([0.0] * 261 + [-float(index) for index in range(len(pieces))])
        self._writer.add_token_types([_UNKNOWN, *[_CONTROL] * 4, *[_BYTE] * 256, *[_NORMAL] * len(pieces)])
        self.add_hyperparameters(bos_token_id=1, eos_token_id=2, unk_token_id=0)
        return len(tokens)

    def write(self) -> None:
        """Write the file."""
        self._writer.write_header_to_file()
        self._writer.write_kv_data_to_file()
        self._writer.write_tensors_to_file()
        self._writer.close()

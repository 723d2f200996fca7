"""Writes tiny GGUF models whose memory is not a plain KV cache: a few hundred kilobytes of random weights each.

    path = write_kind(tmp_path / "hybrid.gguf", "hybrid")

The weights are scaled so that a token depends on all of its past: other prompts lead to other texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.models.tiny import CHATML, CONTROL_TOKENS, byte_characters

Kind = Literal["sliding", "mamba2", "hybrid"]
Weights: TypeAlias = NDArray[np.float32]

KINDS: tuple[Kind, ...] = ("sliding", "mamba2", "hybrid")

WINDOW = 32
"""Tokens that the attention of the "sliding" model's windowed layers sees, the newest included."""

N_CTX = 1024
"""Tokens that the models claim to have been trained with."""

_ARCHITECTURES: Mapping[Kind, str] = {"sliding": "gemma3", "mamba2": "mamba2", "hybrid": "granitehybrid"}
_SEEDS: Mapping[Kind, int] = {"sliding": 8, "mamba2": 10, "hybrid": 10}
_WIDTH, _HEADS, _HEADS_KV, _FEED_FORWARD = 64, 4, 2, 96
_KEY = _WIDTH // _HEADS
_INNER, _STATE, _SSM_HEADS, _CONV = 2 * _WIDTH, 16, 8, 4
_MIXED = _INNER + 2 * _STATE  # what the convolution runs over: x, B and C
_PAIRS = ("th", "in", "er", "on")
_CONTROL, _NORMAL = 3, 1
_POST_NORM = 0.5
_END_SCALE = 1.5  # so that some replies end before their time


def write_kind(path: Path, kind: Kind, *, seed: int | None = None) -> Path:
    """Write a model of the kind to `path` and return it.

    Args:
        path: Where to; replaced if it is there.
        kind: "sliding" is Gemma 3, every second layer with a window of `WINDOW` tokens; "mamba2" has recurrent layers
            only; "hybrid" is Granite 4, two of its three layers Mamba-2 and one attention.
        seed: Of the random weights; None for one with which the peer's choices in these tests are clear ones.
    """
    writer = gguf.GGUFWriter(path, _ARCHITECTURES[kind])
    writer.add_name(f"Tiny {kind}")
    writer.add_file_type(0)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    n_vocab = _add_vocabulary(writer)
    rng = np.random.default_rng(_SEEDS[kind] if seed is None else seed)
    for name, weights in _shared(rng, n_vocab, scale=0.25 if kind == "sliding" else 1.0):
        writer.add_tensor(name, weights)
    layers = {"sliding": _add_sliding, "mamba2": _add_mamba2, "hybrid": _add_hybrid}[kind](writer, rng)
    for name, weights in layers:
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: Any) -> int:
    """Add the control tokens of ChatML, all bytes and a few pairs; return the count of tokens."""
    tokens = [*CONTROL_TOKENS, *byte_characters(), *("".join(pair) for pair in _PAIRS)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL] * len(CONTROL_TOKENS) + [_NORMAL] * (len(tokens) - len(CONTROL_TOKENS)))
    writer.add_token_merges([" ".join(pair) for pair in _PAIRS])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    return len(tokens)


def _add_sliding(writer: Any, rng: np.random.Generator) -> Iterator[tuple[str, Weights]]:
    """Add Gemma 3's settings; return its layers."""
    layers = 4
    writer.add_block_count(layers)
    _add_attention(writer, [_HEADS_KV] * layers)
    writer.add_sliding_window(WINDOW)
    writer.add_sliding_window_pattern([layer % 2 == 0 for layer in range(layers)])
    for layer in range(layers):
        block = f"blk.{layer}."
        yield from _attention(rng, block)
        yield from _feed_forward(rng, block)
        for norm in ("attn_q_norm", "attn_k_norm"):
            yield f"{block}{norm}.weight", _ones(_KEY)
        for norm in ("post_attention_norm", "post_ffw_norm"):
            yield f"{block}{norm}.weight", _POST_NORM * _ones(_WIDTH)


def _add_mamba2(writer: Any, rng: np.random.Generator) -> Iterator[tuple[str, Weights]]:
    """Add Mamba-2's settings; return its layers."""
    layers = 3
    writer.add_block_count(layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    _add_state(writer)
    for layer in range(layers):
        yield from _state_space(rng, f"blk.{layer}.")


def _add_hybrid(writer: Any, rng: np.random.Generator) -> Iterator[tuple[str, Weights]]:
    """Add Granite 4's settings; return its layers, which are recurrent where there are no heads of keys."""
    heads_kv = [0, _HEADS_KV, 0]
    writer.add_block_count(len(heads_kv))
    _add_attention(writer, heads_kv)
    _add_state(writer)
    for layer, heads in enumerate(heads_kv):
        block = f"blk.{layer}."
        yield from _attention(rng, block) if heads else _state_space(rng, block)
        yield from _feed_forward(rng, block)


def _add_attention(writer: Any, heads_kv: list[int]) -> None:
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(heads_kv)
    writer.add_key_length(_KEY)
    writer.add_value_length(_KEY)
    writer.add_rope_dimension_count(_KEY)
    writer.add_rope_freq_base(10000.0)


def _add_state(writer: Any) -> None:
    writer.add_ssm_conv_kernel(_CONV)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_SSM_HEADS)
    writer.add_ssm_group_count(1)


def _shared(rng: np.random.Generator, n_vocab: int, scale: float) -> Iterator[tuple[str, Weights]]:
    """Yield what is not in a layer; `scale` is that of the embeddings, which Gemma multiplies by its width's root."""
    yield "token_embd.weight", _random(rng, (n_vocab, _WIDTH), scale)
    yield "output_norm.weight", _ones(_WIDTH)
    output = _random(rng, (n_vocab, _WIDTH), 0.4)
    output[:2] = 0  # a model in use doesn't write <|endoftext|> or <|im_start|> into a reply; it ends with <|im_end|>
    output[2] *= _END_SCALE
    yield "output.weight", output


def _attention(rng: np.random.Generator, block: str) -> Iterator[tuple[str, Weights]]:
    yield block + "attn_norm.weight", _ones(_WIDTH)
    yield block + "attn_q.weight", _random(rng, (_WIDTH, _WIDTH), 0.25)
    yield block + "attn_k.weight", _random(rng, (_HEADS_KV * _KEY, _WIDTH), 0.25)
    yield block + "attn_v.weight", _random(rng, (_HEADS_KV * _KEY, _WIDTH), 0.4)
    yield block + "attn_output.weight", _random(rng, (_WIDTH, _WIDTH), 0.4)


def _feed_forward(rng: np.random.Generator, block: str) -> Iterator[tuple[str, Weights]]:
    yield block + "ffn_norm.weight", _ones(_WIDTH)
    yield block + "ffn_gate.weight", _random(rng, (_FEED_FORWARD, _WIDTH), 0.15)
    yield block + "ffn_up.weight", _random(rng, (_FEED_FORWARD, _WIDTH), 0.15)
    yield block + "ffn_down.weight", _random(rng, (_WIDTH, _FEED_FORWARD), 0.15)


def _state_space(rng: np.random.Generator, block: str) -> Iterator[tuple[str, Weights]]:
    """Yield a Mamba-2 mixer whose states fade within some dozens of tokens."""
    yield block + "attn_norm.weight", _ones(_WIDTH)
    yield block + "ssm_in.weight", _random(rng, (_INNER + _MIXED + _SSM_HEADS, _WIDTH), 0.15)
    yield block + "ssm_conv1d.weight", _random(rng, (_MIXED, _CONV), 0.5)
    yield block + "ssm_conv1d.bias", _random(rng, (_MIXED,), 0.1)
    yield block + "ssm_dt.bias", rng.uniform(-3, 0, (_SSM_HEADS,)).astype(np.float32)
    yield block + "ssm_a", rng.uniform(-0.5, -0.05, (_SSM_HEADS, 1)).astype(np.float32)
    yield block + "ssm_d", _random(rng, (_SSM_HEADS, 1), 0.5)
    yield block + "ssm_norm.weight", _ones(1, _INNER)
    yield block + "ssm_out.weight", _random(rng, (_WIDTH, _INNER), 0.2)


def _ones(*shape: int) -> Weights:
    return np.ones(shape, dtype=np.float32)


def _random(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Weights:
    return rng.normal(0, scale, shape).astype(np.float32)

"""Writes GGUF models of some ten megabytes, of weights that are all zero: to measure memory with, not to talk to.

    path = write_sized(tmp_path / "gemma.gguf", GEMMA)

Their shapes differ in what memory depends on: heads, shared heads of keys and values, vocabulary, feed-forward width,
sliding windows, and where the output matrix is the embeddings'.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from attrs import frozen

from tests.models.tiny import CHATML, CONTROL_TOKENS, byte_characters

_CONTROL, _NORMAL = 3, 1
N_CTX = 32768
"""Tokens that the models claim to have been trained with."""


@frozen(kw_only=True)
class Sizes:
    """A model's shape.

    Args:
        architecture: One of llama.cpp's.
        layers: Its layers.
        width: Length of an embedding.
        heads: Attention heads.
        heads_kv: Heads of keys and values.
        head: Length of a head.
        feed_forward: Width of the feed-forward part.
        vocabulary: Its tokens.
        tied: Whether the output matrix is the embeddings'.
        window: Tokens of the sliding window that every second layer has; 0 for none.
        experts: Experts in each layer, two of which are used; 0 for a dense model.
    """

    architecture: Literal["llama", "gemma3", "qwen2", "qwen3moe"]
    layers: int
    width: int
    heads: int
    heads_kv: int
    head: int
    feed_forward: int
    vocabulary: int
    tied: bool = True
    window: int = 0
    experts: int = 0


LLAMA = Sizes(
    architecture="llama",
    layers=6,
    width=512,
    heads=8,
    heads_kv=8,
    head=64,
    feed_forward=1536,
    vocabulary=8000,
    tied=False,
)
"""Each head has keys and values of its own: a large cache beside small weights."""

GEMMA = Sizes(
    architecture="gemma3",
    layers=6,
    width=320,
    heads=4,
    heads_kv=1,
    head=128,
    feed_forward=1024,
    vocabulary=65536,
    window=512,
)
"""One head of keys and values, windows in every second layer, heads wider than the embedding, many tokens."""

QWEN = Sizes(
    architecture="qwen2", layers=5, width=640, heads=10, heads_kv=2, head=64, feed_forward=1792, vocabulary=12000
)
"""Five heads share one of keys and values, with biases, and a wide feed-forward part."""

EXPERTS = Sizes(
    architecture="qwen3moe",
    layers=4,
    width=256,
    heads=8,
    heads_kv=2,
    head=64,
    feed_forward=384,
    vocabulary=4000,
    experts=8,
)
"""A mixture of experts."""


def write_sized(path: Path, sizes: Sizes) -> Path:
    """Write a model of the sizes to `path` and return it."""
    writer = gguf.GGUFWriter(path, sizes.architecture)
    writer.add_name(f"Sized {sizes.architecture}")
    writer.add_file_type(1)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(sizes.width)
    writer.add_block_count(sizes.layers)
    writer.add_feed_forward_length(sizes.feed_forward)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.heads_kv)
    writer.add_key_length(sizes.head)
    writer.add_value_length(sizes.head)
    writer.add_rope_dimension_count(sizes.head)
    writer.add_layer_norm_rms_eps(1e-5)
    if sizes.window:
        writer.add_sliding_window(sizes.window)
        writer.add_sliding_window_pattern([layer % 2 == 0 for layer in range(sizes.layers)])
    if sizes.experts:
        writer.add_expert_count(sizes.experts)
        writer.add_expert_used_count(2)
        writer.add_expert_feed_forward_length(sizes.feed_forward)
    _add_vocabulary(writer, sizes.vocabulary)
    for name, shape in _tensors(sizes):
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32 if len(shape) == 1 or "inp" in name else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: Any, count: int) -> None:
    """Add the control tokens of ChatML, all bytes, and made-up words up to `count`."""
    tokens = [*CONTROL_TOKENS, *byte_characters()]
    tokens += [f"w{index}" for index in range(count - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL] * len(CONTROL_TOKENS) + [_NORMAL] * (count - len(CONTROL_TOKENS)))
    writer.add_token_merges(["t h", "i n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def _tensors(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors' names and shapes, numpy's way (the contiguous dimension last)."""
    width, query, keys = sizes.width, sizes.heads * sizes.head, sizes.heads_kv * sizes.head
    yield "token_embd.weight", (sizes.vocabulary, width)
    yield "output_norm.weight", (width,)
    if not sizes.tied:
        yield "output.weight", (sizes.vocabulary, width)
    for layer in range(sizes.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (width,)
        for name, rows in (("q", query), ("k", keys), ("v", keys)):
            yield f"{block}attn_{name}.weight", (rows, width)
            if sizes.architecture == "qwen2":
                yield f"{block}attn_{name}.bias", (rows,)
        yield block + "attn_output.weight", (width, query)
        if sizes.architecture in ("gemma3", "qwen3moe"):
            yield block + "attn_q_norm.weight", (sizes.head,)
            yield block + "attn_k_norm.weight", (sizes.head,)
        if sizes.architecture == "gemma3":
            yield block + "post_attention_norm.weight", (width,)
            yield block + "post_ffw_norm.weight", (width,)
        yield block + "ffn_norm.weight", (width,)
        experts = (sizes.experts,) if sizes.experts else ()
        suffix = "_exps" if experts else ""
        if experts:
            yield block + "ffn_gate_inp.weight", (sizes.experts, width)
        yield f"{block}ffn_gate{suffix}.weight", (*experts, sizes.feed_forward, width)
        yield f"{block}ffn_up{suffix}.weight", (*experts, sizes.feed_forward, width)
        yield f"{block}ffn_down{suffix}.weight", (*experts, width, sizes.feed_forward)

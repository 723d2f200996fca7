"""How much memory a model takes once it is loaded: reckoned from its header, before anything is loaded.

Weights, caches and outputs are sums over the tensors that llama.cpp allocates, and exact for most architectures. The
buffer for intermediate results is modelled: llama.cpp lets tensors share memory once they are used up, so it is as
large as the step needs that needs most. docs/estimate.md compares the figures with llama.cpp's own.
"""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from localllm.models.footprint import Footprint, Layer

KvType = Literal["f16", "q8_0", "f32"]

CELLS_STEP = 256
"""llama.cpp rounds the cells of a context up to a multiple of this."""

TOKEN_BYTES, MERGE_BYTES = 180, 160
"""What llama.cpp's vocabulary takes for each token and each merge: measured, see docs/estimate.md."""

_FLOAT = 4
_INDEX = 8
_SMALL_ROTATION = 64
# values in a block and bytes of a block: ggml's types F16, Q8_0 and F32
_BLOCKS: dict[KvType, tuple[int, int]] = {"f16": (1, 2), "q8_0": (32, 34), "f32": (1, 4)}


@frozen(kw_only=True)
class ContextNumbers:
    """How a context is made, as llama.cpp is told.

    Args:
        n_cells: Tokens that its KV cache holds.
        n_sequences: Its sequence ids.
        n_batch: Tokens of a batch at most.
        kv_type: Precision of its KV cache.
        flash_attention: Whether attention is computed in one fused step.
    """

    n_cells: int
    n_sequences: int
    n_batch: int
    kv_type: KvType
    flash_attention: bool


@frozen(kw_only=True)
class ContextBytes:
    """What a context takes, in bytes.

    Args:
        kv_bytes: The KV cache.
        state_bytes: The states of recurrent layers, of all sequences.
        compute_bytes: The intermediate results of the largest batch.
        output_bytes: The logits that are handed out.
        work_bytes: What the processor's attention needs beside that, for the scores in the precision of the cache.
    """

    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int
    work_bytes: int

    @property
    def reported_bytes(self) -> int:
        """What llama.cpp says that it allocates: all of it but `work_bytes`."""
        return self.kv_bytes + self.state_bytes + self.compute_bytes + self.output_bytes


@frozen(kw_only=True)
class MemoryEstimate:
    """How much memory a model takes, in bytes, reckoned from its header alone.

    The totals are what llama.cpp reports that it allocates: weights, caches, intermediate results and outputs.
    `peak_bytes` adds what it does not report, and the smaller context that stays beside the new one while one grows.

    Not counted: the interpreter and its libraries (some 40 MB in a worker process), idle chats in host memory (up to
    `ModelConfig.cache_ram_bytes`), and the context of its own that `deterministic=True` has. Where llama.cpp
    repacks weights for the processor (`ModelConfig.repack`), copies take the place of the file's pages, some percent
    larger. Layers on a GPU take their share of these figures there.

    Weights that are mapped from the file (`ModelConfig.mmap`) are pages of the file: processes that load the same file
    share them, and the system may drop and read them again.

    The states of recurrent layers follow from the header's keys by llama.cpp's own formulas. What is needed to compute
    them is exact to some percent for Mamba-2 (measured), and a guess for others. Only approximate are architectures
    that keep more beside the KV cache than the header tells (DeepSeek 3.2 and others with sparse attention), and those
    with embeddings for each layer (Gemma 3n and 4), which take more than is said here.

    Args:
        weights_bytes: The model's tensors.
        vocabulary_bytes: llama.cpp's tables of tokens and merges; some ten percent off.
        kv_bytes_per_1000_tokens: What 1,000 further tokens of context take in the KV cache.
        kv_bytes: The KV cache at the ceiling.
        state_bytes: The states of recurrent layers; the same for any length of context.
        compute_bytes: Intermediate results at the ceiling.
        output_bytes: Logits of one token for each sequence.
        work_bytes: Copies of attention's scores that the processor makes at the ceiling; 0 with flash attention.
        first_bytes: What llama.cpp reports as soon as it is loaded: the context begins with 448 tokens, and grows.
        total_bytes: What it reports at the ceiling: all of these but the vocabulary and `work_bytes`.
        peak_bytes: The most that is taken at any moment: these two as well, and both contexts of the last growth.
        n_ctx: The ceiling: tokens that the context window may hold.
        n_parallel: Replies that run at once.
        free_bytes: The memory that is free; None if that isn't known.
        fits: Whether `peak_bytes` are free; None if that isn't known.
        largest_n_ctx: The longest context window that fits, up to the one that the model was trained with; 0 if none
            does, None if it isn't known how much memory is free.
    """

    weights_bytes: int
    vocabulary_bytes: int
    kv_bytes_per_1000_tokens: int
    kv_bytes: int
    state_bytes: int
    compute_bytes: int
    output_bytes: int
    work_bytes: int
    first_bytes: int
    total_bytes: int
    peak_bytes: int
    n_ctx: int
    n_parallel: int
    free_bytes: int | None = None
    fits: bool | None = None
    largest_n_ctx: int | None = None


def describe_shortage(found: MemoryEstimate) -> str:
    """Return, for a person, why the model does not fit, in figures, and what to do.

    Args:
        found: The estimate; `free_bytes` and `largest_n_ctx` are known.
    """
    context = found.total_bytes - found.weights_bytes
    figures = (
        f"it takes up to {_megabytes(found.peak_bytes)} with n_ctx={found.n_ctx} (weights "
        f"{_megabytes(found.weights_bytes)}, context {_megabytes(context)}, and room to grow), and "
        f"{_megabytes(found.free_bytes or 0)} are free"
    )
    if found.largest_n_ctx:
        return f"{figures}; n_ctx={found.largest_n_ctx} fits, or take kv_type='q8_0', a smaller n_parallel or n_batch"
    return f"{figures}; no context fits: free memory, or take a smaller model or one that is quantized further"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def vocabulary_bytes(model: Footprint) -> int:
    """Return what the vocabulary takes, about."""
    return TOKEN_BYTES * model.vocabulary + MERGE_BYTES * model.merges


def kv_bytes_per_token(model: Footprint, kv_type: KvType, *, flash_attention: bool) -> int:
    """Return what one token takes in the KV caches of all layers.

    Layers with a sliding window count like the others: the engine keeps all of their tokens, to share prefixes.
    """
    values = _value_widths(model, flash_attention=flash_attention)
    return sum(
        _row(layer.keys, kv_type) + _row(width, kv_type) for layer, width in zip(model.layers, values, strict=True)
    )


def context_bytes(model: Footprint, numbers: ContextNumbers) -> ContextBytes:
    """Return what a context takes.

    Args:
        model: The model.
        numbers: How the context is made.
    """
    cells = -(-numbers.n_cells // CELLS_STEP) * CELLS_STEP
    per_token = kv_bytes_per_token(model, numbers.kv_type, flash_attention=numbers.flash_attention)
    return ContextBytes(
        kv_bytes=cells * per_token,
        state_bytes=_FLOAT * numbers.n_sequences * sum(layer.state for layer in model.layers),
        compute_bytes=_compute_bytes(model, numbers, cells),
        output_bytes=_FLOAT * numbers.n_sequences * model.vocabulary,
        work_bytes=_work_bytes(model, numbers, cells),
    )


def _row(width: int, kv_type: KvType) -> int:
    """Return the bytes of `width` numbers in a cache."""
    block, size = _BLOCKS[kv_type]
    return -(-width // block) * size


def _value_widths(model: Footprint, *, flash_attention: bool) -> list[int]:
    """Return the numbers of the values of each layer for a token.

    Without flash attention values are kept transposed, and all layers' have the width of the widest.
    """
    widest = max((layer.values for layer in model.layers), default=0)
    return [layer.values if flash_attention or not layer.values else widest for layer in model.layers]


def _compute_bytes(model: Footprint, numbers: ContextNumbers, cells: int) -> int:
    """Return the bytes of the intermediate results of the largest batch.

    Measured with several architectures, what is needed at once is: in attention three embeddings, the queries, what
    comes of them, and without flash attention the scores of all cells; in the feed-forward part three embeddings, the
    queries and the part's own; at the end an embedding and the logits. With a quantized cache llama.cpp orders some
    steps otherwise and saves an embedding, which is left out of account here.
    """
    tokens = _batch_tokens(numbers, cells)
    inputs = _input_bytes(model, numbers, cells, tokens)
    layers = max((_layer_bytes(model, layer, numbers, cells, tokens) for layer in model.layers), default=0)
    outputs = numbers.n_sequences * (model.vocabulary + model.width) + tokens * model.width
    return max(inputs + layers, _FLOAT * outputs)


def _batch_tokens(numbers: ContextNumbers, cells: int) -> int:
    """Return the tokens of the largest batch, for which llama.cpp reserves memory.

    It rounds them up to a multiple of the sequences. So more sequences can mean fewer tokens; here they don't, for an
    estimate that falls where more is asked for would only puzzle.
    """
    batch = min(numbers.n_batch, cells)
    return max(-(-batch // count) * count for count in range(1, numbers.n_sequences + 1))


def _work_bytes(model: Footprint, numbers: ContextNumbers, cells: int) -> int:
    """Return the bytes of the scores in F16, which the processor multiplies with values of F16; not so on a GPU."""
    if numbers.flash_attention or numbers.kv_type != "f16":
        return 0
    return 2 * _batch_tokens(numbers, cells) * cells * max((layer.heads for layer in model.layers), default=0)


def _input_bytes(model: Footprint, numbers: ContextNumbers, cells: int, tokens: int) -> int:
    """Return the bytes of what goes into a batch: masks, the cells to write to, rotations of quantized caches."""
    if not any(layer.keys for layer in model.layers):
        return 0
    fused = numbers.flash_attention
    mask = tokens * cells * (2 if fused else _FLOAT)
    widest = max(layer.values for layer in model.layers)
    indices = _INDEX * tokens * (2 if fused else 1 + widest)  # transposed values have an index for each number
    rotations = 0
    if numbers.kv_type == "q8_0":
        rotations = _FLOAT * (
            _rotation(model.key_length) ** 2 + min(_rotation(model.value_length), _SMALL_ROTATION) ** 2
        )
    caches = 2 if model.window else 1
    return caches * (mask + indices + rotations)


def _rotation(length: int) -> int:
    """Return the largest power of two from 64 that divides a head's length; 0 if none does."""
    return 0 if length % _SMALL_ROTATION else length & -length


def _layer_bytes(model: Footprint, layer: Layer, numbers: ContextNumbers, cells: int, tokens: int) -> int:
    """Return the bytes that the most demanding step of a layer takes."""
    around = 3 * model.width
    attention = _FLOAT * tokens * (around + 2 * layer.query)
    if not numbers.flash_attention:
        attention += _FLOAT * tokens * cells * layer.heads
    elif numbers.kv_type == "f32":
        attention += 2 * cells * (layer.keys + layer.values)  # cast to F16, which is all that flash attention reads
    feed_forward = _FLOAT * tokens * (around + layer.query + layer.feed_forward)
    state = _FLOAT * (tokens * layer.state_work + numbers.n_sequences * layer.state)
    return max(attention, feed_forward, state)

"""What a `ModelConfig` leaves open, decided from the model and the machine. Pure; docs/defaults.md has the reasons.

Users who know better say so in their config: every choice here is one of its fields.
"""

from __future__ import annotations

import logging

from attrs import frozen

from localllm.backends.llamacpp.hardware import Machine
from localllm.backends.llamacpp.rope import extends
from localllm.backends.llamacpp.token_model import Compute
from localllm.engine.engine import EngineLimits
from localllm.errors import InvalidOptionError
from localllm.options import ModelConfig

_log = logging.getLogger("localllm.llama")

MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ

FIRST_CELLS = 448
"""Tokens of the context at first; it grows with use. With the 64 for copies 512: llama.cpp rounds up to 256."""

LEAST_CTX = 4096
"""Tokens of the context window at least, however little memory there is: a chat that is worth the name."""

PARALLEL = 8
"""Replies that run at once, where memory allows for PARALLEL_TOKENS each."""

PARALLEL_TOKENS = 1024
"""Tokens of context for each of the replies that run at once: a guess at a chat's size."""

GPU_BATCH = 512
"""Tokens of a step at most with a GPU: llama.cpp's default for one physical batch."""

CPU_BATCH = 136
"""The same without a GPU: as fast as 512, with a quarter of the buffers, and more than a step's time allows there. Not
128: small batches were measured to take 3% longer with it, for where llama.cpp puts its buffers then."""

MORE_SEQUENCES = 4
"""Idle sequences beside the running ones, on their way to host memory. Each id costs a row of logits."""

IDLE_SEQUENCES = 24
"""The same without host memory, where idle sequences stay in the context for their prefixes."""

_KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}


@frozen(kw_only=True)
class Shape:
    """What of a model matters here.

    Args:
        n_ctx_train: Tokens that it was trained with.
        kv_values: Numbers that the KV cache keeps for a token, keys and values of all layers.
        n_swa: Tokens of its sliding window; 0 if it has none.
    """

    n_ctx_train: int
    kv_values: int
    n_swa: int = 0


def compute_for(config: ModelConfig, machine: Machine, limits: EngineLimits) -> Compute:
    """Return how contexts compute.

    Raises:
        InvalidOptionError: Options that exclude each other.
    """
    fused = config.flash_attention
    if fused is False and config.kv_type == "q8_0":
        raise InvalidOptionError(
            "kv_type='q8_0' needs flash attention: leave flash_attention out, or use kv_type='f16'"
        )
    return Compute(
        threads=config.threads or machine.cores,
        n_batch=limits.n_batch,
        n_outputs=limits.n_parallel,
        kv_type=config.kv_type,
        flash_attention=(machine.gpu or config.kv_type == "q8_0") if fused is None else fused,
    )


def limits_for(config: ModelConfig, machine: Machine, shape: Shape) -> EngineLimits:
    """Return how the engine is cut."""
    affordable = _affordable_tokens(config, machine, shape)
    n_ctx = _context_tokens(config, shape, affordable)
    most = (MAX_SEQUENCES - 1) // (2 if shape.n_swa else 1)  # one is for copies; with a sliding window each has a twin
    chosen = PARALLEL if affordable is None else max(1, min(PARALLEL, affordable // PARALLEL_TOKENS))
    n_parallel = min(config.n_parallel or chosen, most)
    n_batch = config.n_batch or (GPU_BATCH if machine.gpu else CPU_BATCH)
    return EngineLimits(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_sequences=min(n_parallel + (MORE_SEQUENCES if config.cache_ram_bytes else IDLE_SEQUENCES), most),
        n_batch=max(min(n_batch, n_ctx), n_parallel),
        step_s=config.step_ms / 1000,
        idle_step_s=config.idle_step_ms / 1000,
        cache_ram_bytes=config.cache_ram_bytes,
        first_cells=n_ctx if n_ctx < 2 * FIRST_CELLS else FIRST_CELLS,
    )


def _affordable_tokens(config: ModelConfig, machine: Machine, shape: Shape) -> int | None:
    """Return the tokens whose cells take half of the memory that is free; None if that isn't known."""
    if machine.free_bytes is None or not shape.kv_values:
        return None
    return int(machine.free_bytes / 2 / (shape.kv_values * _KV_BYTES[config.kv_type]))


def _context_tokens(config: ModelConfig, shape: Shape, affordable: int | None) -> int:
    if config.n_ctx is None:
        return shape.n_ctx_train if affordable is None else min(shape.n_ctx_train, max(LEAST_CTX, affordable))
    if config.n_ctx > shape.n_ctx_train and extends(config):
        return config.n_ctx
    if config.n_ctx > shape.n_ctx_train:
        _log.warning(
            "n_ctx=%s is more than the %s tokens that the model was trained with, beyond which it talks nonsense "
            "without ModelConfig(rope_scaling='yarn') or 'linear': the context window holds %s",
            config.n_ctx,
            shape.n_ctx_train,
            shape.n_ctx_train,
        )
    return min(config.n_ctx, shape.n_ctx_train)

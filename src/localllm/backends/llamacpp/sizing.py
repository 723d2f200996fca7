"""How much memory a model will take with llama.cpp: its header, its config and the machine, before it is loaded.

What the config leaves open is decided as for a load, by `defaults.py`; contexts are counted as `token_model.py` opens
them. The arithmetic is in `localllm.models.estimate`.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve

from localllm.backends.llamacpp.defaults import Shape, compute_for, limits_for
from localllm.backends.llamacpp.hardware import Machine
from localllm.engine.engine import EngineLimits
from localllm.engine.growth import larger
from localllm.engine.host_cache import BLOCK_TOKENS
from localllm.errors import InsufficientMemoryError
from localllm.models.estimate import (
    ContextBytes,
    ContextNumbers,
    MemoryEstimate,
    context_bytes,
    describe_shortage,
    kv_bytes_per_token,
    vocabulary_bytes,
)
from localllm.models.footprint import Footprint, read_footprint
from localllm.models.gguf import GGUFHeader
from localllm.options import ModelConfig

_LEAST_CTX = 8  # the least that a `ModelConfig` takes


def estimate(
    header: GGUFHeader, config: ModelConfig, *, free_bytes: int | None, cores: int, gpu: bool = False
) -> MemoryEstimate:
    """Return how much memory the model will take.

    Args:
        header: Its header as `check_file` returns it: of a model in parts, with the tensors of all parts.
        config: How it is to be loaded.
        free_bytes: The memory that is free for it; None if that isn't known.
        cores: Physical cores of the process.
        gpu: Whether layers will be offloaded to a GPU.

    Raises:
        InvalidModelFileError: A hyperparameter is wrong.
        InvalidOptionError: Options that exclude each other.
    """
    model = read_footprint(header)
    machine = Machine(cores=cores, free_bytes=free_bytes, gpu=gpu)
    found = _at(model, config, machine)
    if free_bytes is None:
        return found

    def fits(n_ctx: int) -> bool:
        return _at(model, evolve(config, n_ctx=n_ctx), machine).peak_bytes <= free_bytes

    return evolve(
        found,
        free_bytes=free_bytes,
        fits=found.peak_bytes <= free_bytes,
        largest_n_ctx=_largest(fits, _LEAST_CTX, model.trained_ctx),
    )


def fitted(config: ModelConfig, found: MemoryEstimate, name: str) -> ModelConfig:
    """Return the config with a context window that fits, if it leaves the choice.

    Args:
        config: How the model is to be loaded.
        found: Its estimate.
        name: What to call it in an error.

    Raises:
        InsufficientMemoryError: It does not fit, and `check_memory` is on; the message has the figures.
    """
    if not config.check_memory or found.fits is not False:
        return config
    if config.n_ctx is None and found.largest_n_ctx:
        return evolve(config, n_ctx=min(found.n_ctx, found.largest_n_ctx))
    raise InsufficientMemoryError(
        f"{name} does not fit into memory: {describe_shortage(found)}. ModelConfig(check_memory=False) loads it anyway"
    )


def context_numbers(model: Footprint, config: ModelConfig, machine: Machine, n_cells: int) -> ContextNumbers:
    """Return how the context is made in which the engine finds `n_cells` cells; see `LlamaTokenModel.open_context`.

    Args:
        model: The model.
        config: How it is to be loaded.
        machine: What it will run on.
        n_cells: Cells that the engine is told of.

    Raises:
        InvalidOptionError: Options that exclude each other.
    """
    limits = _limits(model, config, machine)
    compute = compute_for(config, machine, limits)
    twins = 2 if model.window and not model.recurrent else 1
    return ContextNumbers(
        n_cells=n_cells + BLOCK_TOKENS,
        n_sequences=1 + twins * limits.n_sequences,
        n_batch=compute.n_batch,
        kv_type=compute.kv_type,
        flash_attention=compute.flash_attention,
    )


def _limits(model: Footprint, config: ModelConfig, machine: Machine) -> EngineLimits:
    shape = Shape(n_ctx_train=model.trained_ctx, kv_values=model.usual_kv, n_swa=model.window)
    return limits_for(config, machine, shape)


def _at(model: Footprint, config: ModelConfig, machine: Machine) -> MemoryEstimate:
    """Return the estimate for this config, whatever is free."""
    limits = _limits(model, config, machine)
    numbers = context_numbers(model, config, machine, limits.n_ctx)

    def context_of(n_cells: int) -> ContextBytes:
        return context_bytes(model, evolve(numbers, n_cells=n_cells + BLOCK_TOKENS))

    ceiling, first = context_of(limits.n_ctx), context_of(limits.first_cells)
    before = _cells_before(limits.first_cells, limits.n_ctx)
    beside = context_of(before) if before else None
    vocabulary = vocabulary_bytes(model)
    total = model.weights_bytes + ceiling.reported_bytes
    per_token = kv_bytes_per_token(model, numbers.kv_type, flash_attention=numbers.flash_attention)
    return MemoryEstimate(
        weights_bytes=model.weights_bytes,
        vocabulary_bytes=vocabulary,
        kv_bytes_per_1000_tokens=1000 * per_token,
        kv_bytes=ceiling.kv_bytes,
        state_bytes=ceiling.state_bytes,
        compute_bytes=ceiling.compute_bytes,
        output_bytes=ceiling.output_bytes,
        work_bytes=ceiling.work_bytes,
        first_bytes=model.weights_bytes + first.reported_bytes,
        total_bytes=total,
        peak_bytes=total
        + vocabulary
        + ceiling.work_bytes
        + (beside.reported_bytes + beside.work_bytes if beside else 0),
        n_ctx=limits.n_ctx,
        n_parallel=limits.n_parallel,
    )


def _cells_before(cells: int, n_ctx: int) -> int:
    """Return the cells of the context that grows to `n_ctx`, the first one having `cells`; 0 if none has to."""
    before = 0
    while cells < n_ctx:
        before, cells = cells, larger(cells, n_ctx)
    return before


def _largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """Return the largest number from `low` to `high` that fits, where whatever is smaller fits too; 0 if none does."""
    if low > high or not fits(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low

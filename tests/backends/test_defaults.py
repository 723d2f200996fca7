"""What a config leaves open is what was measured (docs/defaults.md), and follows the model and the machine."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from localllm import ChatSession, InvalidOptionError, ModelConfig, ModelManager
from localllm.backends.llamacpp.defaults import Shape, compute_for, limits_for
from localllm.backends.llamacpp.hardware import Machine, free_bytes, physical_cores
from localllm.backends.llamacpp.token_model import Compute
from localllm.engine.engine import EngineLimits
from localllm.models.checks import check_file
from localllm.models.footprint import read_footprint

GIGABYTE = 1 << 30
LAPTOP = Machine(cores=4, free_bytes=8 * GIGABYTE)
SMALL = Shape(n_ctx_train=8192, kv_values=11_520)  # SmolLM2-135M
LARGE = Shape(n_ctx_train=131_072, kv_values=131_072)  # 8B: 32 layers, 8 heads of 128, keys and values


def test_an_empty_config_resolves_to_the_measured_defaults() -> None:
    """Each number stands in the sweep's table, or its reason in docs/defaults.md."""
    limits = limits_for(ModelConfig(), LAPTOP, SMALL)
    assert limits == EngineLimits(
        n_ctx=8192,
        n_parallel=8,
        n_sequences=12,
        n_batch=136,
        step_s=0.08,
        idle_step_s=0.25,
        cache_ram_bytes=512 << 20,
        first_cells=448,
    )
    assert compute_for(ModelConfig(), LAPTOP, limits) == Compute(
        threads=4, n_batch=136, n_outputs=8, kv_type="f16", flash_attention=False
    )


def test_with_a_gpu_batches_are_larger_and_attention_is_fused() -> None:
    """As llama.cpp's own defaults are."""
    machine = Machine(cores=8, free_bytes=None, gpu=True)
    limits = limits_for(ModelConfig(), machine, SMALL)
    assert limits.n_batch == 512
    assert compute_for(ModelConfig(), machine, limits).flash_attention


@pytest.mark.parametrize(
    ("free", "shape", "n_ctx", "n_parallel"),
    [
        (8 * GIGABYTE, LARGE, 16_384, 8),
        (64 * GIGABYTE, LARGE, 131_072, 8),
        (GIGABYTE, LARGE, 4096, 2),
        (0, LARGE, 4096, 1),
        (0, SMALL, 4096, 1),
        (None, LARGE, 131_072, 8),
    ],
)
def test_the_window_and_the_replies_at_once_follow_the_memory(
    free: int | None, shape: Shape, n_ctx: int, n_parallel: int
) -> None:
    """Half of what is free; the model's training length at most, a chat's worth at least."""
    limits = limits_for(ModelConfig(), Machine(cores=4, free_bytes=free), shape)
    assert (limits.n_ctx, limits.n_parallel) == (n_ctx, n_parallel)


def test_what_the_config_says_is_done() -> None:
    """Whatever the defaults would be."""
    config = ModelConfig(n_ctx=512, threads=1, n_parallel=3, n_batch=64, cache_ram_bytes=0, step_ms=40)
    limits = limits_for(config, LAPTOP, LARGE)
    assert (limits.n_ctx, limits.first_cells, limits.n_parallel, limits.n_batch) == (512, 512, 3, 64)
    assert limits.n_sequences == 3 + 24, "without host memory idle sequences stay in the context"
    assert limits.step_s == 0.04
    assert compute_for(config, LAPTOP, limits).threads == 1


def test_a_sliding_window_leaves_half_of_the_sequence_ids() -> None:
    """For each sequence has a twin."""
    assert limits_for(ModelConfig(n_parallel=256), LAPTOP, SMALL).n_parallel == 255
    assert (
        limits_for(ModelConfig(n_parallel=256), LAPTOP, Shape(n_ctx_train=512, kv_values=1, n_swa=64)).n_parallel == 127
    )


def test_a_window_beyond_the_training_length_is_clamped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning has both counts."""
    with caplog.at_level(logging.WARNING, logger="localllm.llama"):
        assert limits_for(ModelConfig(n_ctx=10_000), LAPTOP, SMALL).n_ctx == 8192
    assert "n_ctx=10000" in caplog.text
    assert "8192" in caplog.text


def test_a_quantized_kv_cache_turns_flash_attention_on_and_refuses_to_go_without() -> None:
    """llama.cpp has no other way to read quantized values."""
    config = ModelConfig(kv_type="q8_0")
    assert compute_for(config, LAPTOP, limits_for(config, LAPTOP, SMALL)).flash_attention
    config = ModelConfig(kv_type="q8_0", flash_attention=False)
    with pytest.raises(InvalidOptionError, match="needs flash attention"):
        compute_for(config, LAPTOP, limits_for(config, LAPTOP, SMALL))


def test_the_real_model_is_loaded_with_them(smollm2_path: Path) -> None:
    """Its header says what the choices are made from: keys and values of 30 layers, 3 heads of 64 each."""
    footprint = read_footprint(check_file(smollm2_path))
    assert (footprint.trained_ctx, footprint.usual_kv) == (SMALL.n_ctx_train, SMALL.kv_values)
    with ModelManager(isolation="thread") as models:
        info = models.load("smollm2-135m").info
    assert (info.n_ctx, info.n_parallel) == (8192, 8)


def test_the_machine_tells_its_cores_and_its_free_memory() -> None:
    """At least one core; free memory where the system says it."""
    assert physical_cores() >= 1
    free = free_bytes()
    assert free is None or free > 0


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(n_batch=1, n_parallel=1),
        ModelConfig(n_batch=2, n_parallel=2, cache_ram_bytes=0),
        ModelConfig(n_parallel=255, n_ctx=64),
        ModelConfig(kv_type="q8_0", n_ctx=300),
        ModelConfig(kv_type="f32", n_ctx=100),
    ],
    ids=str,
)
def test_extreme_settings_answer_or_refuse_and_never_end_the_process(config: ModelConfig) -> None:
    """llama.cpp asserts how some of them stand to each other."""
    with ModelManager(isolation="thread") as models:
        chat = ChatSession(models.load("smollm2-135m", config=config))
        assert chat.send("Hi.", max_tokens=4, temperature=0).usage.completion_tokens

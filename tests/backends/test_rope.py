"""A context window beyond the training length: only for who says how positions are made there."""

from __future__ import annotations

import logging

import pytest

from localllm import ChatSession, InvalidOptionError, ModelConfig, ModelManager
from localllm.backends.llamacpp.defaults import Shape, limits_for
from localllm.backends.llamacpp.hardware import Machine
from localllm.backends.llamacpp.rope import Rope, rope_for

TRAINED = 8192
MACHINE = Machine(cores=2, free_bytes=8 << 30)
SHAPE = Shape(n_ctx_train=TRAINED, kv_values=11_520)


def window(config: ModelConfig) -> int:
    """Return the context window that a config leads to."""
    return limits_for(config, MACHINE, SHAPE).n_ctx


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(n_ctx=16_384, rope_scaling="linear"),
        ModelConfig(n_ctx=16_384, rope_scaling="yarn"),
        ModelConfig(n_ctx=16_384, rope_freq_scale=0.5),
        ModelConfig(n_ctx=16_384, rope_freq_base=500_000.0),
    ],
    ids=str,
)
def test_each_way_to_stretch_positions_allows_more_than_the_training_length(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a warning."""
    with caplog.at_level(logging.WARNING, logger="localllm.llama"):
        assert window(config) == 16_384
    assert caplog.text == ""


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(n_ctx=16_384),
        ModelConfig(n_ctx=16_384, rope_scaling="none"),
        ModelConfig(n_ctx=16_384, rope_scaling="none", rope_freq_scale=0.5),
        ModelConfig(n_ctx=16_384, yarn_orig_ctx=4096),
    ],
    ids=str,
)
def test_without_one_the_window_is_clamped_with_a_warning_that_names_them(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp ignores a scale where scaling is "none", and YaRN's length without YaRN."""
    with caplog.at_level(logging.WARNING, logger="localllm.llama"):
        assert window(config) == TRAINED
    assert "rope_scaling='yarn'" in caplog.text


@pytest.mark.parametrize("config", [ModelConfig(rope_scaling="yarn"), ModelConfig(rope_freq_scale=0.5)], ids=str)
def test_the_default_window_stays_as_trained(config: ModelConfig) -> None:
    """More is for who asks for it."""
    assert window(config) == TRAINED


def test_a_scaling_without_a_scale_gets_what_the_window_needs() -> None:
    """And none where the window is no longer than the training length; a scale that is given is kept."""
    assert rope_for(ModelConfig(rope_scaling="linear"), 2 * TRAINED, TRAINED) == Rope(scaling=1, freq_scale=0.5)
    assert rope_for(ModelConfig(rope_scaling="yarn"), TRAINED, TRAINED) == Rope(scaling=2)
    config = ModelConfig(rope_scaling="yarn", rope_freq_scale=0.25, rope_freq_base=10_000.0, yarn_orig_ctx=4096)
    assert rope_for(config, 2 * TRAINED, TRAINED) == Rope(scaling=2, freq_base=10_000.0, freq_scale=0.25, orig_ctx=4096)
    assert rope_for(ModelConfig(), TRAINED, TRAINED) == Rope()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_scaling", "longrope"),
        ("rope_freq_scale", 0.0),
        ("rope_freq_scale", 2.0),
        ("rope_freq_base", -1.0),
        ("yarn_orig_ctx", 0),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    """The message has the option and the value."""
    with pytest.raises(InvalidOptionError, match=f"{name} must be .*{value}"):
        ModelConfig(**{name: value})  # type: ignore[arg-type]  # the point of the test


def test_the_real_model_answers_with_stretched_positions() -> None:
    """Its window is twice the training length, and the scale reaches llama.cpp: the greedy text is another one."""
    texts = []
    with ModelManager(isolation="thread") as models:
        for config in (ModelConfig(n_ctx=16_384, rope_scaling="linear"), ModelConfig(n_ctx=16_384)):
            model = models.load("smollm2-135m", config=config)
            assert model.info.n_ctx == (16_384 if config.rope_scaling else TRAINED)
            texts.append(ChatSession(model).send("Tell me about the sea.", temperature=0, max_tokens=24).text)
            model.close()
    assert all(texts)
    assert texts[0] != texts[1]

"""The estimate of a model's memory, beside what llama.cpp itself reports, and its choices beside those of a load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve

from localllm import ModelManager
from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.sizing import estimate, fitted
from localllm.errors import InsufficientMemoryError, InvalidOptionError
from localllm.models.checks import check_file
from localllm.models.estimate import MemoryEstimate
from localllm.models.footprint import read_footprint
from localllm.options import ModelConfig
from tests.backends.memory_report import MIB, Measured, configs, measured
from tests.kinds.tiny_kinds import KINDS, Kind, write_kind
from tests.models.sized import EXPERTS, GEMMA, LLAMA, QWEN, Sizes, write_sized

ROUNDING = 0.011 * MIB
"""llama.cpp says most sizes to two places of a MiB."""

MODELS: dict[str, Sizes] = {"llama": LLAMA, "gemma3": GEMMA, "qwen2": QWEN, "experts": EXPERTS}


@pytest.fixture(scope="module", params=["SmolLM2", *MODELS])
def model(
    request: pytest.FixtureRequest, smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Measured]:
    """The real model, and others of some ten megabytes."""
    name: str = request.param
    path = smollm2_path
    if name in MODELS:
        path = write_sized(tmp_path_factory.mktemp("sized") / f"{name}.gguf", MODELS[name])
    with measured(path) as loaded:
        yield loaded


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose memory is no plain KV cache."""
    name: Kind = request.param
    return write_kind(tmp_path_factory.mktemp("kinds") / f"{name}.gguf", name)


@pytest.mark.parametrize("config", configs(), ids=lambda config: f"{config.n_ctx}-{config.kv_type}-{config.n_parallel}")
def test_the_estimate_is_what_llama_cpp_reports(model: Measured, config: ModelConfig) -> None:
    """Weights, cache and outputs to the byte, as far as they are said; what is needed to compute within an eighth."""
    found, said = model.estimated(config), model.reported(config)
    assert found.weights_bytes == pytest.approx(said.weights, abs=ROUNDING)
    assert found.kv_bytes == pytest.approx(said.kv, abs=2 * ROUNDING)
    assert found.output_bytes == pytest.approx(said.output, abs=ROUNDING)
    assert found.compute_bytes == pytest.approx(said.compute, rel=0.13)
    assert found.total_bytes == pytest.approx(said.total, rel=0.02)


@pytest.mark.parametrize("n_parallel", [1, 8])
def test_states_of_recurrent_layers_are_what_llama_cpp_reports(kind: Path, n_parallel: int) -> None:
    """A state for each sequence, a cache for the layers that attend, and both caches of a sliding window."""
    with measured(kind) as model:
        config = ModelConfig(n_ctx=512, n_parallel=n_parallel)
        found, said = model.estimated(config), model.reported(config)
    assert found.state_bytes == pytest.approx(said.state, abs=ROUNDING)
    assert found.kv_bytes == pytest.approx(said.kv, abs=2 * ROUNDING)
    assert found.compute_bytes == pytest.approx(said.compute, rel=0.1)


def test_the_header_tells_what_the_defaults_depend_on(kind: Path, smollm2_path: Path) -> None:
    """The same training length, cache and window as those that the loaded model tells: so the same choices follow."""
    for path in (kind, smollm2_path):
        header, native = read_footprint(check_file(path)), NativeModel(path)
        assert header.trained_ctx == native.n_ctx_train
        assert header.window == native.n_swa
        assert header.recurrent is not native.can_cut
        assert header.vocabulary == native.n_vocab
        native.close()


def test_a_load_makes_the_choices_that_were_estimated(smollm2_path: Path) -> None:
    """The estimate's context and replies at once are those of the loaded model, whatever the config leaves open."""
    for config in (ModelConfig(n_ctx=3000), ModelConfig(n_ctx=512, n_parallel=3)):
        found = estimate(check_file(smollm2_path), config, free_bytes=16 << 30, cores=2)
        with ModelManager(isolation="thread") as models:
            info = models.load(smollm2_path, config=config).info
        assert (found.n_ctx, found.n_parallel) == (info.n_ctx, info.n_parallel)


def test_options_that_exclude_each_other_are_refused_as_in_a_load(smollm2_path: Path) -> None:
    """A quantized cache without flash attention is an InvalidOptionError."""
    config = ModelConfig(kv_type="q8_0", flash_attention=False)
    with pytest.raises(InvalidOptionError, match="flash_attention"):
        estimate(check_file(smollm2_path), config, free_bytes=None, cores=1)


def test_what_cannot_fit_is_refused_with_figures_and_a_suggestion() -> None:
    """Unless it is told otherwise; without a wish of its own the window is one that fits."""
    found = MemoryEstimate(
        weights_bytes=10**9,
        vocabulary_bytes=0,
        kv_bytes_per_1000_tokens=10**8,
        kv_bytes=8 * 10**8,
        state_bytes=0,
        compute_bytes=0,
        output_bytes=0,
        work_bytes=0,
        first_bytes=11 * 10**8,
        total_bytes=18 * 10**8,
        peak_bytes=22 * 10**8,
        n_ctx=8000,
        n_parallel=8,
        free_bytes=15 * 10**8,
        fits=False,
        largest_n_ctx=3000,
    )
    asked = ModelConfig(n_ctx=8000)
    with pytest.raises(InsufficientMemoryError, match=r"2,200 MB with n_ctx=8000.*1,500 MB are free; n_ctx=3000 fits"):
        fitted(asked, found, "a model")
    assert fitted(evolve(asked, check_memory=False), found, "a model").n_ctx == 8000
    assert fitted(ModelConfig(), found, "a model").n_ctx == 3000
    with pytest.raises(InsufficientMemoryError, match="no context fits"):
        fitted(ModelConfig(), evolve(found, largest_n_ctx=0), "a model")
    fits = evolve(found, fits=True)
    assert fitted(asked, fits, "a model") is asked

"""The estimate of a model's memory, from headers alone: nothing native is loaded here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.llamacpp.sizing import estimate
from localllm.models.checks import check_file
from localllm.models.estimate import KvType, MemoryEstimate, describe_shortage
from localllm.models.gguf import GGUFHeader
from localllm.options import ModelConfig
from tests.kinds.tiny_kinds import KINDS, write_kind
from tests.models.sized import EXPERTS, GEMMA, LLAMA, N_CTX, write_sized

Estimator = Callable[..., MemoryEstimate]

ADDED_UP = (
    "weights_bytes",
    "vocabulary_bytes",
    "kv_bytes",
    "state_bytes",
    "compute_bytes",
    "output_bytes",
    "work_bytes",
    "first_bytes",
    "total_bytes",
    "peak_bytes",
)

contexts = st.integers(8, N_CTX)
kv_types: st.SearchStrategy[KvType] = st.sampled_from(("f16", "q8_0", "f32"))
batches = st.none() | st.integers(1, 2048)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> list[GGUFHeader]:
    """Headers of several architectures, recurrent ones among them."""
    folder = tmp_path_factory.mktemp("headers")
    small = (evolve(sizes, vocabulary=2000, layers=3) for sizes in (LLAMA, GEMMA, EXPERTS))
    paths = [write_sized(folder / f"{index}.gguf", sizes) for index, sizes in enumerate(small)]
    paths += [write_kind(folder / f"{kind}.gguf", kind) for kind in KINDS]
    return [check_file(path) for path in paths]


@given(
    which=st.integers(0, 5),
    sizes=st.tuples(contexts, contexts),
    replies=st.tuples(st.integers(1, 256), st.integers(1, 256)),
    kv_type=kv_types,
    n_batch=batches,
)
def test_more_context_or_more_replies_never_take_less(
    headers: list[GGUFHeader],
    which: int,
    sizes: tuple[int, int],
    replies: tuple[int, int],
    kv_type: KvType,
    n_batch: int | None,
) -> None:
    """Every figure grows, or stays, with `n_ctx` and with `n_parallel`; only a small context begins with all of it."""

    def found(n_ctx: int, n_parallel: int) -> MemoryEstimate:
        config = ModelConfig(n_ctx=n_ctx, n_parallel=n_parallel, kv_type=kv_type, n_batch=n_batch)
        return estimate(headers[which], config, free_bytes=None, cores=4)

    (small, large), (few, many) = sorted(sizes), sorted(replies)
    least, longer, wider = found(small, few), found(large, few), found(small, many)
    for name in ADDED_UP:
        assert getattr(least, name) <= getattr(longer, name) or name == "first_bytes"
        assert getattr(least, name) <= getattr(wider, name)


@given(which=st.integers(0, 5), free=st.integers(0, 1 << 31), n_ctx=st.none() | contexts, kv_type=kv_types)
def test_the_largest_context_that_fits_fits_and_the_next_one_does_not(
    headers: list[GGUFHeader], which: int, free: int, n_ctx: int | None, kv_type: KvType
) -> None:
    """By the estimate itself; none fits where not even the shortest does."""
    header = headers[which]

    def found(n_ctx: int | None) -> MemoryEstimate:
        return estimate(header, ModelConfig(n_ctx=n_ctx, kv_type=kv_type), free_bytes=free, cores=4)

    asked = found(n_ctx)
    assert asked.fits is (asked.peak_bytes <= free)
    largest = asked.largest_n_ctx
    assert largest is not None
    assert not asked.fits or asked.n_ctx <= largest
    if largest:
        assert found(largest).fits
    trained = header.integer(f"{header.text('general.architecture')}.context_length") or 0
    if largest < trained:
        assert not found(max(8, largest + 1)).fits


@given(which=st.integers(0, 5), n_ctx=contexts, kv_type=kv_types)
def test_the_parts_make_the_whole(headers: list[GGUFHeader], which: int, n_ctx: int, kv_type: KvType) -> None:
    """The total is the sum of what llama.cpp reports; the beginning is no more, the peak no less."""
    found = estimate(headers[which], ModelConfig(n_ctx=n_ctx, kv_type=kv_type), free_bytes=None, cores=4)
    context = found.kv_bytes + found.state_bytes + found.compute_bytes + found.output_bytes
    assert found.total_bytes == found.weights_bytes + context
    assert found.first_bytes <= found.total_bytes <= found.peak_bytes - found.vocabulary_bytes - found.work_bytes


def test_without_known_memory_nothing_is_said_of_fitting(headers: list[GGUFHeader]) -> None:
    """Neither yes nor no."""
    found = estimate(headers[0], ModelConfig(), free_bytes=None, cores=4)
    assert (found.free_bytes, found.fits, found.largest_n_ctx) == (None, None, None)


def test_a_thousand_tokens_of_cache(headers: list[GGUFHeader]) -> None:
    """Keys and values of each layer's heads, at two bytes a number, or 34 for 32 of them when quantized."""
    numbers = 1000 * 3 * 2 * LLAMA.heads_kv * LLAMA.head
    sizes: dict[KvType, float] = {"f16": 2.0, "q8_0": 34 / 32, "f32": 4.0}
    for kv_type, size in sizes.items():
        found = estimate(headers[0], ModelConfig(kv_type=kv_type), free_bytes=None, cores=4)
        assert found.kv_bytes_per_1000_tokens == numbers * size


def test_a_context_is_not_counted_beyond_the_training_length(headers: list[GGUFHeader]) -> None:
    """It is clamped, as in a load."""
    assert estimate(headers[0], ModelConfig(n_ctx=10 * N_CTX), free_bytes=None, cores=4).n_ctx == N_CTX


def test_growth_keeps_the_smaller_context_beside_the_larger(headers: list[GGUFHeader]) -> None:
    """A context that never grows has no such peak; one of 8,192 tokens has that of 3,584 beside it."""

    def beside(n_ctx: int) -> int:
        found = estimate(headers[0], ModelConfig(n_ctx=n_ctx, kv_type="q8_0"), free_bytes=None, cores=4)
        return found.peak_bytes - found.total_bytes - found.vocabulary_bytes

    assert beside(800) == 0
    smaller = estimate(headers[0], ModelConfig(n_ctx=3584, kv_type="q8_0"), free_bytes=None, cores=4)
    assert beside(8192) == smaller.total_bytes - smaller.weights_bytes


def test_a_shortage_is_told_in_figures_with_what_would_fit(headers: list[GGUFHeader]) -> None:
    """The context that fits where there is one, else a smaller model."""
    tight = estimate(headers[0], ModelConfig(n_ctx=16384), free_bytes=60_000_000, cores=4)
    assert tight.fits is False
    text = describe_shortage(tight)
    assert f"n_ctx={tight.largest_n_ctx} fits" in text
    assert "60 MB are free" in text
    hopeless = estimate(headers[0], ModelConfig(n_ctx=16384), free_bytes=1_000_000, cores=4)
    assert hopeless.largest_n_ctx == 0
    assert "smaller model" in describe_shortage(hopeless)

"""Steps stay near their time whatever the rate, and chunks keep a few sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.budget import FIRST_CHUNK, IDLE_CHUNK, MIN_CHUNK, StepBudget, chunk_size


@given(st.floats(0, 1e9), st.integers(1, 4096))
def test_a_chunk_is_a_coarse_size_within_its_bounds(wanted: float, most: int) -> None:
    """It is 2^n or 1.5 * 2^n, at least MIN_CHUNK, never above what was wanted beyond that, nor above the batch."""
    size = chunk_size(wanted, most)
    assert 1 <= size <= most
    assert size <= max(wanted, MIN_CHUNK)
    if size < most:
        assert size in {8 << n for n in range(12)} | {12 << n for n in range(12)}
        assert size * 1.51 > min(wanted, most) or size == MIN_CHUNK


@given(st.floats(1e-6, 0.05), st.floats(1e-4, 0.5), st.integers(1, 32))
def test_steps_beside_a_stream_take_no_longer_than_asked(token_s: float, decode_s: float, streams: int) -> None:
    """Once rates are known, a step is within its time, or holds the least there is."""
    budget = StepBudget(0.08, 0.25, 512)
    for _ in range(30):
        budget.observe(0, streams, decode_s)
        size = budget.prefill_tokens(streams)
        budget.observe(size, streams, decode_s + size * token_s)
    size = budget.prefill_tokens(streams)
    assert size == MIN_CHUNK or decode_s + size * token_s <= 0.08 * 1.01


def test_an_unknown_rate_begins_with_a_guess_and_no_batch_is_exceeded() -> None:
    """The first chunk is FIRST_CHUNK; the batch's size bounds it."""
    assert StepBudget(0.08, 0.25, 512).prefill_tokens(0) == FIRST_CHUNK
    assert StepBudget(0.08, 0.25, 10).prefill_tokens(0) == 10


def test_while_nobody_streams_chunks_stay_large() -> None:
    """A slow machine still reads prompts in batches that are worth it."""
    budget = StepBudget(0.08, 0.25, 512)
    budget.observe(64, 0, 10.0)
    assert budget.prefill_tokens(0) == IDLE_CHUNK
    assert budget.prefill_tokens(1) == MIN_CHUNK
    assert budget.prefill_tokens_per_s == pytest.approx(6.4)


def test_moves_take_a_small_part_of_a_step_beside_a_stream() -> None:
    """And half a step while nobody streams."""
    budget = StepBudget(0.08, 0.25, 512)
    assert budget.moving_s(3) == pytest.approx(0.01)
    assert budget.moving_s(0) == pytest.approx(0.125)

"""The figures of a model over all the times that it was in memory."""

from __future__ import annotations

from attrs import evolve

from localllm.engine.stats import ModelStats


def total(before: ModelStats, now: ModelStats) -> ModelStats:
    """Return `now` with what was counted `before` added: what counts grows on, what measures is as it is now.

    Args:
        before: The figures of the earlier times.
        now: The figures since the last load.
    """
    steps = before.steps + now.steps
    filled = before.batch_fill * before.steps + now.batch_fill * now.steps
    return evolve(
        now,
        finished=before.finished + now.finished,
        prompt_tokens=before.prompt_tokens + now.prompt_tokens,
        cached_tokens=before.cached_tokens + now.cached_tokens,
        completion_tokens=before.completion_tokens + now.completion_tokens,
        cache_hits=before.cache_hits + now.cache_hits,
        disk_hits=before.disk_hits + now.disk_hits,
        evictions=before.evictions + now.evictions,
        preemptions=before.preemptions + now.preemptions,
        steps=steps,
        batch_fill=filled / steps if steps else 0.0,
    )

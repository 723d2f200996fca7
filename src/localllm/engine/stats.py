"""The figures of a loaded model's engine, as a frozen snapshot."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class ModelStats:
    """What a loaded model has done since it was loaded, and what it does now.

    Args:
        running: Requests being read or answered now.
        waiting: Requests in the queue now.
        finished: Requests ended, however they ended.
        prompt_tokens: Tokens of all prompts.
        cached_tokens: Those of them that were not computed again.
        completion_tokens: Tokens generated.
        cache_hits: Requests that began from a cached prefix.
        disk_hits: Requests for which a long system prompt was brought from `ModelConfig.prompt_cache_dir`.
        evictions: Cached sequences and parts of them given up for room.
        preemptions: Times that a running request had to give its cells up, to be read again later.
        steps: Batches computed.
        batch_fill: Mean count of tokens in a step.
        cells_used: Cells of the KV cache in use now, in tokens.
        cells_total: Cells of the KV cache now, in tokens.
        host_bytes: Host memory that idle sequences take now.
        prefill_tokens_per_s: Measured rate of reading prompts; 0 while unknown.
    """

    running: int = 0
    waiting: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cache_hits: int = 0
    disk_hits: int = 0
    evictions: int = 0
    preemptions: int = 0
    steps: int = 0
    batch_fill: float = 0.0
    cells_used: int = 0
    cells_total: int = 0
    host_bytes: int = 0
    prefill_tokens_per_s: float = 0.0

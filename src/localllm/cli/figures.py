"""The figures of a reply and of a model, as lines to read."""

from __future__ import annotations

from localllm.engine.stats import ModelStats
from localllm.types import Reply


def reply_line(reply: Reply) -> str:
    """Return one line about `reply`: when it began, how fast it came, what of its prompt was not computed again."""
    usage, timings = reply.usage, reply.timings
    return (
        f"first token {timings.first_token_s:.2f} s · {timings.tokens_per_s:.1f} tokens/s · "
        f"{usage.completion_tokens} tokens from a prompt of {usage.prompt_tokens}, {usage.cached_tokens} of them cached"
    )


def model_lines(stats: ModelStats) -> list[str]:
    """Return lines about all that a model has done since it was loaded."""
    return [
        f"since loading: replies: {stats.finished} · tokens generated: {stats.completion_tokens} · "
        f"prompt tokens: {stats.prompt_tokens}, {stats.cached_tokens} of them cached",
        f"context memory: {stats.cells_used} of {stats.cells_total} tokens in use",
    ]


def size(count: int | None) -> str:
    """Return a count of bytes as a person reads it, such as "23.5 GiB"; "unknown" for None."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"

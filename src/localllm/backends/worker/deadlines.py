"""When a request takes too long: pure."""

from __future__ import annotations

from attrs import frozen

from localllm.errors import FirstTokenTimeoutError, GenerationTimeoutError, ReplyTimeoutError, TokenTimeoutError
from localllm.options import Timeouts


@frozen(kw_only=True)
class Waiting:
    """What is known of a request that has not ended; all times by one clock, in seconds.

    Args:
        submitted_s: When it was made.
        begun_s: When its first event came; None before.
        token_s: When its last text came; None before.
        other_s: When anything last came for any request of the model.
        own_limit_s: Its own `timeout_s`, which the backend sees to; None if it has none.
    """

    submitted_s: float
    begun_s: float | None = None
    token_s: float | None = None
    other_s: float = 0.0
    own_limit_s: float | None = None


def overdue(waiting: Waiting, timeouts: Timeouts, now_s: float) -> GenerationTimeoutError | None:
    """Return the error for the limit that a request has passed, or None."""
    took_s = now_s - waiting.submitted_s
    if waiting.own_limit_s is not None:
        if took_s > waiting.own_limit_s + timeouts.close_s:  # the backend should have ended it by now
            return ReplyTimeoutError(f"the reply took longer than timeout_s={waiting.own_limit_s:g} s")
    elif timeouts.reply_s is not None and took_s > timeouts.reply_s:
        return ReplyTimeoutError(f"the reply took longer than Timeouts.reply_s={timeouts.reply_s:g} s")
    if waiting.token_s is not None:
        limit_s = timeouts.between_tokens_s
        if limit_s is not None and now_s - waiting.token_s > limit_s:
            return TokenTimeoutError(f"no further token came within Timeouts.between_tokens_s={limit_s:g} s")
        return None
    # One that has not begun may be waiting for others: as long as those get on, nothing is wrong with it.
    since_s = max(waiting.submitted_s, waiting.other_s) if waiting.begun_s is None else waiting.begun_s
    limit_s = timeouts.first_token_s
    if limit_s is not None and now_s - since_s > limit_s:
        return FirstTokenTimeoutError(f"no token came within Timeouts.first_token_s={limit_s:g} s")
    return None


def tick_s(timeouts: Timeouts, most_s: float) -> float:
    """Return how often to look, in seconds: so that no limit is overshot by much, and at least every `most_s`."""
    limits = (timeouts.first_token_s, timeouts.between_tokens_s, timeouts.reply_s, timeouts.close_s)
    return max(0.01, min(1.0, most_s, *(limit / 10 for limit in limits if limit is not None)))

"""How a turn ended: what its caller gets, what is raised, and what the history keeps."""

from __future__ import annotations

from types import TracebackType
from typing import assert_never, cast

from attrs import frozen

from localllm.errors import GenerationTimeoutError, LocalLLMError, TruncatedOutputError
from localllm.types import FinishReason, GenerationEnded, Message, Reply, Timings, TokenLogprob, ToolResult, Usage


@frozen(kw_only=True)
class Outcome:
    """How a turn was settled; its figures may come later.

    Args:
        message: The last assistant message, whether or not the history keeps it.
        finish_reason: Why it ended, as the consumer sees it.
        said: Whether any text was given to the consumer.
        value: What a schema made of it.
        dropped: The messages that were left out.
        results: The results of the calls that were run.
        logprobs: The log-probabilities of the message's tokens, if they were asked for.
        notes: What the backend noted of the turn's replies.
        failure: What to raise for a time-out or an error.
        traceback: The failure's own, so that raising it twice does not pile up frames.
    """

    message: Message
    finish_reason: FinishReason
    said: bool
    value: object = None
    dropped: tuple[Message, ...] = ()
    results: tuple[ToolResult, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()
    failure: Exception | None = None
    traceback: TracebackType | None = None

    @property
    def kept(self) -> bool:
        """Whether the history gains the turn."""
        if isinstance(self.failure, TruncatedOutputError):
            return self.said
        match self.finish_reason:
            case "stop" | "length" | "tool_calls":
                return self.failure is None
            case "cancelled" | "timeout":
                return self.said
            case "error":
                return False
            case _:
                assert_never(self.finish_reason)

    def reply(self, usage: Usage, timings: Timings) -> Reply[object]:
        """Return the reply with its figures."""
        return Reply(
            text=self.message.content,
            message=self.message,
            finish_reason=self.finish_reason,
            usage=usage,
            timings=timings,
            thought=self.message.thought,
            tool_calls=self.message.tool_calls,
            parsed=self.value,
            dropped=self.dropped,
            tool_results=self.results,
            logprobs=self.logprobs,
            notes=self.notes,
        )

    def raise_failure(self, *, timeout: bool) -> None:
        """Raise what is to be raised; a time-out only if `timeout`."""
        if self.failure is not None and (timeout or self.finish_reason != "timeout"):
            raise self.failure.with_traceback(self.traceback)


def failure_of(
    reason: FinishReason, ended: GenerationEnded | None, text: str, timeout_s: float | None
) -> Exception | None:
    """Return what is to be raised at an end of a turn; None for one that is no failure.

    Args:
        reason: Why it ended.
        ended: The backend's end, if that is what ended it.
        text: The last message so far.
        timeout_s: The limit that was set, for the message of a time-out.
    """
    if ended is not None and ended.error is not None:
        return ended.error
    if reason == "timeout":
        limit = "its time limit" if timeout_s is None else f"timeout_s={timeout_s:g} seconds"
        return GenerationTimeoutError(
            f"the reply took longer than {limit}; {len(text)} characters of it had been made, see `.reply`. Raise "
            "timeout_s, or lower max_tokens"
        )
    return None


def told(failure: Exception, reply: Reply[object]) -> None:
    """Give a failure of ours the reply that it has cut off."""
    if isinstance(failure, LocalLLMError):
        failure.reply = plain(reply)


def plain(reply: Reply[object]) -> Reply:
    """Return `reply` as the type of replies without a schema: of an exception nobody can know what it was."""
    return cast("Reply", reply)

"""One reply on its way: folds the backend's events, in the consumer's thread, and settles exactly once.

The backend only fills the mailbox. A consumer takes steps (`next_chunk`, `next_event`, `collect`), each of which folds
what it takes, so the text of a turn is what its consumer has been given and nothing beyond. Therefore a cancel can
settle the turn at once, in the caller's thread, without waiting for the backend, and always with the same result.

Locks: steps and `cancel` hold the turn's lock, then the session's for a moment. It is reentrant, for a signal handler
may cancel in the middle of a step. Finalizers call `drop`, which takes no lock at all; the turn is then settled by
whoever looks at it next.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from types import TracebackType
from typing import Literal, TypeAlias, assert_never

from attrs import define, field, frozen

from localllm.backends.base import GenerateHandle, Sink
from localllm.errors import GenerationTimeoutError, LocalLLMError, StreamConsumedError
from localllm.mailbox import Mailbox
from localllm.pump import PENDING, Pending
from localllm.types import (
    BackendEvent,
    FinishReason,
    GenerationEnded,
    Message,
    PromptProgress,
    Reply,
    ReplyEnded,
    StreamChunk,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
)

View = Literal["chunks", "events"]
"""The two ways to iterate over a stream."""

Keep: TypeAlias = Callable[[Message | None], None]
"""Told the message that a settled turn adds to the history, or None."""


@frozen
class _Outcome:
    """How a turn was settled.

    Args:
        message: The assistant message, whether or not the history keeps it.
        finish_reason: Why it ended, as the consumer sees it.
        failure: What to raise for a time-out or an error.
        traceback: The failure's own, so that raising it twice does not pile up frames.
    """

    message: Message
    finish_reason: FinishReason
    failure: LocalLLMError | None = None
    traceback: TracebackType | None = None


@define(eq=False)
class Turn:
    """One reply on its way.

    Args:
        wake: Lets those who wait for this turn step again; takes no lock.
    """

    _wake: Callable[[], None]
    _mailbox: Mailbox = field(init=False)
    _lock: RLock = field(factory=RLock, init=False)
    _handle: GenerateHandle | None = field(default=None, init=False)
    _timeout_s: float | None = field(default=None, init=False)
    _keep: Keep | None = field(default=None, init=False)
    _view: View | None = field(default=None, init=False)
    _text: list[str] = field(factory=list, init=False)
    _thought: list[str] = field(factory=list, init=False)
    _chunks: int = field(default=0, init=False)
    _outcome: _Outcome | None = field(default=None, init=False)
    _end_given: bool = field(default=False, init=False)
    _dropped: bool = field(default=False, init=False)

    @_mailbox.default
    def _empty_mailbox(self) -> Mailbox:
        return Mailbox(self._wake)

    @property
    def settled(self) -> bool:
        """Whether the outcome is fixed."""
        return self._outcome is not None

    @property
    def ended(self) -> bool:
        """Whether the backend has sent its last event, so that no step waits any more; takes no lock."""
        return self._mailbox.ended is not None

    def start(self, submit: Callable[[Sink], GenerateHandle], keep: Keep, timeout_s: float | None) -> None:
        """Send the request.

        Args:
            submit: Sends it; given the sink for its events.
            keep: Told once, when the turn is settled, the message for the history, or None to leave it as it was.
            timeout_s: The request's limit, for the message of a time-out.
        """
        self._keep = keep
        self._timeout_s = timeout_s
        self._handle = submit(self._mailbox.put)

    def claim(self, view: View) -> None:
        """Iterate over the turn in this way and in no other.

        Raises:
            StreamConsumedError: The other way was begun.
        """
        if self._view not in (None, view):
            raise StreamConsumedError(
                f"this stream is already read as {self._view}; "
                "read either its chunks (`for chunk in stream`) or its `events()`, not both"
            )
        self._view = view

    def next_chunk(self) -> StreamChunk | Literal[Pending.PENDING] | None:
        """Step to the next chunk; None at the end.

        Raises:
            GenerationTimeoutError: The time ran out.
            LocalLLMError: The reply failed.
        """
        with self._lock:
            while self._open():
                event = self._mailbox.take()
                if event is None:
                    return PENDING
                made = self._fold(event)
                if isinstance(made, StreamChunk):
                    return made
            self._raise_failure(timeout=True)
            return None

    def next_event(self) -> StreamEvent | Literal[Pending.PENDING] | None:
        """Step to the next event, the last of which is ReplyEnded; None after that. Raises like `next_chunk`."""
        with self._lock:
            while self._open():
                event = self._mailbox.take()
                if event is None:
                    return PENDING
                made = self._fold(event)
                if made is not None:
                    return made
            self._raise_failure(timeout=True)
            if self._end_given:
                return None
            reply = self._reply()
            if reply is PENDING:
                return PENDING
            self._end_given = True
            return ReplyEnded(reply)

    def collect(self) -> Reply | Literal[Pending.PENDING]:
        """Step to the whole reply. Raises like `next_chunk`."""
        return self._collect(raise_timeout=True)

    def collect_ended(self) -> Reply | Literal[Pending.PENDING]:
        """Step to the whole reply; one that ran out of time is a reply, too.

        Raises:
            LocalLLMError: The reply failed.
        """
        return self._collect(raise_timeout=False)

    def cancel(self, *, received: bool = False) -> None:
        """Settle the turn as cancelled, now and without waiting, unless it is settled already.

        Args:
            received: Count what the backend has made so far as given to the consumer, who was collecting it.
        """
        with self._lock:
            if self._outcome is not None:
                return
            while received and (event := self._mailbox.take()) is not None:
                if isinstance(event, TextDelta):
                    self._fold(event)
            self._settle("cancelled", None)
            handle = self._handle
        if handle is not None:
            handle.cancel()

    def drop(self) -> None:
        """Give the turn up, for a finalizer: takes no lock, whoever looks next settles it as cancelled."""
        if self._outcome is None and not self._dropped:
            self._dropped = True
            self._mailbox.discard()
            if self._handle is not None:
                self._handle.cancel()

    def settle_if_dropped(self) -> None:
        """Settle the turn if a finalizer gave it up."""
        if self._dropped:
            with self._lock:
                self._open()

    def _collect(self, *, raise_timeout: bool) -> Reply | Literal[Pending.PENDING]:
        with self._lock:
            while self._open():
                event = self._mailbox.take()
                if event is None:
                    return PENDING
                self._fold(event)
            self._raise_failure(timeout=raise_timeout)
            return self._reply()

    def _open(self) -> bool:
        """Whether the turn is not settled yet; a dropped one is settled by asking."""
        if self._dropped and self._outcome is None:
            self._settle("cancelled", None)
        return self._outcome is None

    def _fold(self, event: BackendEvent) -> PromptProgress | StreamChunk | ToolCallEvent | None:
        match event:
            case TextDelta():
                (self._text if event.segment == "text" else self._thought).append(event.text)
                self._chunks += 1
                return StreamChunk(event.text, event.segment, self._chunks - 1)
            case PromptProgress() | ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
                return event
            case GenerationEnded():
                self._settle(event.finish_reason, event)
                return None
            case _:
                assert_never(event)

    def _settle(self, reason: FinishReason, ended: GenerationEnded | None) -> None:
        """Fix the outcome and tell the session; `ended` is given if the consumer has all that the backend made."""
        message = Message(
            "assistant",
            "".join(self._text),
            thought="".join(self._thought) if self._thought else None,
            tool_calls=() if ended is None else ended.tool_calls,
            finish_reason=reason,
            token_ids=None if ended is None else ended.token_ids,
        )
        failure = self._failure(message, ended) if ended is not None else None
        self._outcome = _Outcome(message, reason, failure, failure.__traceback__ if failure else None)
        self._mailbox.discard()
        keep, self._keep = self._keep, None
        if keep is not None:
            keep(message if _is_kept(reason, message) else None)
        self._wake()

    def _failure(self, message: Message, ended: GenerationEnded) -> LocalLLMError | None:
        if ended.error is not None:
            ended.error.reply = _reply(message, ended.finish_reason, ended)
            return ended.error
        if ended.finish_reason == "timeout":
            limit = "its time limit" if self._timeout_s is None else f"timeout_s={self._timeout_s:g} seconds"
            return GenerationTimeoutError(
                f"the reply took longer than {limit}; {len(message.content)} characters of it had been made, see "
                "`.reply`. Raise timeout_s, or lower max_tokens",
                reply=_reply(message, "timeout", ended),
            )
        return None

    def _raise_failure(self, *, timeout: bool) -> None:
        outcome = self._outcome
        if outcome is not None and outcome.failure is not None and (timeout or outcome.finish_reason != "timeout"):
            raise outcome.failure.with_traceback(outcome.traceback)

    def _reply(self) -> Reply | Literal[Pending.PENDING]:
        """The reply of a settled turn; its figures come with the backend's last event, so a cancelled one waits."""
        outcome, ended = self._outcome, self._mailbox.ended
        if outcome is None or ended is None:
            return PENDING
        return _reply(outcome.message, outcome.finish_reason, ended)


def _is_kept(reason: FinishReason, message: Message) -> bool:
    match reason:
        case "stop" | "length" | "tool_calls":
            return True
        case "cancelled" | "timeout":
            return bool(message.content)
        case "error":
            return False
        case _:
            assert_never(reason)


def _reply(message: Message, reason: FinishReason, ended: GenerationEnded) -> Reply:
    return Reply(
        text=message.content,
        message=message,
        finish_reason=reason,
        usage=ended.usage,
        timings=ended.timings,
        thought=message.thought,
        tool_calls=message.tool_calls,
    )

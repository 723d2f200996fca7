"""One turn on its way: folds the events of its stages, in the consumer's thread, and settles exactly once.

Whoever carries a stage out, be it the backend or a tool's thread, only fills the mailbox. A consumer takes steps
(`next_chunk`, `next_event`, `collect`), each of which folds what it takes, so the text of a turn is what its consumer
has been given and nothing beyond; the next stage, too, begins in such a step. Therefore a cancel can settle the turn at
once, in the caller's thread, without waiting for anybody, and always with the same result.

Locks: steps and `cancel` hold the turn's lock, then the session's for a moment. It is reentrant, for a signal handler
may cancel in the middle of a step. Finalizers call `drop`, which takes no lock at all; the turn is then settled by
whoever looks at it next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import RLock
from typing import Literal, TypeAlias, TypeVar, assert_never

from attrs import define, field

from localllm.backends.base import GenerateHandle
from localllm.chat.overflow import Shortened
from localllm.draft import Draft
from localllm.errors import ClosedError, InvalidOptionError, LocalLLMError, StreamConsumedError
from localllm.figures import Figures
from localllm.mailbox import Mailbox
from localllm.outcome import Outcome, failure_of, told
from localllm.pump import PENDING, Pending
from localllm.stages import (
    Ask,
    Begin,
    CallsEnded,
    Course,
    RunCalls,
    Shorten,
    Stage,
    StageEvent,
    limited,
    never_begun,
)
from localllm.tools.run import ToolRun
from localllm.types import (
    FinishReason,
    GenerationEnded,
    Message,
    MessagesDropped,
    PromptProgress,
    Reply,
    ReplyEnded,
    StreamChunk,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolEnded,
    ToolStarted,
)

View = Literal["chunks", "events", "partials"]
"""The ways to iterate over a stream."""

Keep: TypeAlias = Callable[[tuple[Message, ...] | None], None]
"""Told the messages that a settled turn adds to the history, or None."""

T = TypeVar("T")


@define(eq=False)
class Turn:
    """One turn on its way.

    Args:
        wake: Lets those who wait for this turn step again; takes no lock.
        now: The clock, in seconds.
    """

    _wake: Callable[[], None]
    _now: Callable[[], float] = time.monotonic
    _mailbox: Mailbox = field(init=False)
    _lock: RLock = field(factory=RLock, init=False)
    _handle: GenerateHandle | None = field(default=None, init=False)
    _begin: Begin = field(default=never_begun, init=False)
    _course: Course | None = field(default=None, init=False)
    _stage: Stage | None = field(default=None, init=False)
    _began_s: float = field(default=0.0, init=False)  # when the turn began,
    _stage_s: float = field(default=0.0, init=False)  # and when its stage did
    _timeout_s: float | None = field(default=None, init=False)
    _keep: Keep | None = field(default=None, init=False)
    _view: View | None = field(default=None, init=False)
    _draft: Draft = field(factory=Draft, init=False)
    _figures: Figures = field(factory=Figures, init=False)
    _left_out: tuple[Message, ...] = field(default=(), init=False)
    _outcome: Outcome | None = field(default=None, init=False)
    _made: Reply[object] | None = field(default=None, init=False)
    _counted: bool = field(default=False, init=False)  # whether the stage's figures are added
    _partial: object = field(default=None, init=False)
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
        """Whether the stage has sent its last event, so that the next step does not wait; takes no lock."""
        return self._mailbox.ended is not None

    def start(
        self, begin: Begin, course: Course, keep: Keep, timeout_s: float | None, draft: Draft | None = None
    ) -> None:
        """Begin the first stage.

        Args:
            begin: Carries stages out.
            course: Decides on them.
            keep: Told once, when the turn is settled, the messages for the history, or None to leave it as it was.
            timeout_s: The limit of all stages together.
            draft: What the reply begins with, if it does not begin with nothing.

        Raises:
            LocalLLMError: What `begin` raises.
        """
        self._begin, self._course, self._keep, self._timeout_s = begin, course, keep, timeout_s
        self._draft = draft or self._draft
        self._began_s = self._now()
        self._enter(course.first())

    def claim(self, view: View) -> None:
        """Iterate over the turn in this way and in no other.

        Raises:
            StreamConsumedError: Another way was begun.
            InvalidOptionError: There are no partials: no schema was given.
        """
        if view == "partials" and not self._decided().makes_values:
            raise InvalidOptionError("this stream has no schema, so it has no partials(); give stream(schema=...)")
        if self._view not in (None, view):
            raise StreamConsumedError(
                f"this stream is already read as {self._view}; read either its chunks (`for chunk in stream`), its "
                "`events()` or its `partials()`"
            )
        self._view = view

    def next_chunk(self) -> StreamChunk | Literal[Pending.PENDING] | None:
        """Step to the next chunk; None at the end.

        Raises:
            GenerationTimeoutError: The time ran out.
            LocalLLMError: The reply failed.
        """
        return self._next(lambda event: event if isinstance(event, StreamChunk) else None)

    def next_partial(self) -> object:
        """Step to the next value that the text so far can be read as; PENDING, or None at the end. Raises as above."""
        return self._next(self._new_partial)

    def next_event(self) -> StreamEvent[object] | Literal[Pending.PENDING] | None:
        """Step to the next event, the last of which is ReplyEnded; None after that. Raises like `next_chunk`."""
        with self._lock:
            made: StreamEvent[object] | Literal[Pending.PENDING] | None = self._next(_itself)
            if made is not None or self._end_given:
                return made
            reply = self._reply()
            if reply is PENDING:
                return PENDING
            self._end_given = True
            return ReplyEnded(reply)

    def collect(self, *, raise_timeout: bool = True) -> Reply[object] | Literal[Pending.PENDING]:
        """Step to the whole reply. Raises like `next_chunk`; a time-out only if `raise_timeout`."""
        with self._lock:
            waiting = self._next(lambda event: None, raise_timeout=raise_timeout)
            return self._reply() if waiting is None else PENDING

    def attended(self, step: Callable[[], T | Literal[Pending.PENDING]]) -> T | Literal[Pending.PENDING]:
        """Take a step, and whatever a tool wants done in the consumer's own thread; without the lock, for it may wait.

        Raises:
            BaseException: What the step raises, or the hook that was asked.
        """
        while (made := step()) is PENDING:
            handle = self._handle
            if self._outcome is not None or not isinstance(handle, ToolRun) or not handle.attend():
                break
        return made

    def cancel(self, *, received: bool = False) -> None:
        """Settle the turn as cancelled, now and without waiting, unless it is settled already.

        Args:
            received: Count what has been made so far as given to the consumer, who was collecting it.
        """
        with self._lock:
            if self._outcome is not None:
                return
            while (event := self._mailbox.take()) is not None:
                # A tool that has run has had its effect, whether or not anybody was told.
                if isinstance(event, ToolEnded) or (received and isinstance(event, TextDelta)):
                    self._fold(event)
            self._settle("cancelled")
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

    def _next(
        self, wanted: Callable[[StreamEvent[object] | None], T | None], *, raise_timeout: bool = True
    ) -> T | Literal[Pending.PENDING] | None:
        """Fold events until one makes something that is wanted; None once the turn is settled."""
        with self._lock:
            while self._open():
                event = self._mailbox.take()
                if event is None:
                    return PENDING
                made = wanted(self._fold(event))
                if made is not None:
                    return made
            if self._outcome is not None:
                self._outcome.raise_failure(timeout=raise_timeout)
            return None

    def _new_partial(self, event: StreamEvent[object] | None) -> object:
        if not isinstance(event, StreamChunk) or event.segment != "text":
            return None
        partial = self._decided().partial(event.text)
        if partial is None or partial == self._partial:
            return None
        self._partial = partial
        return partial

    def _open(self) -> bool:
        """Whether the turn is not settled yet; a dropped one is settled by asking."""
        if self._dropped and self._outcome is None:
            self._settle("cancelled")
        return self._outcome is None

    def _fold(self, event: StageEvent) -> StreamEvent[object] | None:
        silent = isinstance(self._stage, Ask) and self._stage.silent
        match event:
            case TextDelta():
                if not silent:
                    return self._draft.add(event)
                self._draft.add_silent(event)
            case PromptProgress():
                return None if silent else event
            case ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
                return None if silent else self._draft.numbered(event)
            case ToolStarted():
                return event
            case ToolEnded():
                self._draft.end_call(event)
                return event
            case GenerationEnded():
                self._end_reply(event)
            case CallsEnded():
                self._end_calls(event)
            case Shortened():
                return self._end_shortening(event)
            case _:
                assert_never(event)
        return None

    def _end_reply(self, ended: GenerationEnded) -> None:
        message = self._draft.message(ended.finish_reason, ended)
        following = self._decided().after_reply(ended, message, self._draft.take_silent())
        if not isinstance(following, Shorten):  # of a request that was refused nothing counts but the time
            self._count(ended)
            self._draft.notes += ended.notes
        if following is None:
            self._settle(ended.finish_reason, ended)
            return
        if isinstance(following, RunCalls):
            self._draft.begin_calls(message)
        self._go_on(following)

    def _end_calls(self, ended: CallsEnded) -> None:
        if ended.failure is not None:
            self._settle("cancelled")
            raise ended.failure
        self._go_on(self._decided().after_calls(self._draft.end_calls(ended.results)))

    def _end_shortening(self, shortened: Shortened) -> MessagesDropped | None:
        if shortened.error is not None:
            self._settle("error", failure=shortened.error)
            return None
        self._left_out += shortened.dropped
        self._go_on(self._decided().after_shortening(shortened))
        return MessagesDropped(shortened.dropped) if shortened.dropped else None

    def _decided(self) -> Course:
        if self._course is None:
            raise RuntimeError("a turn that was not started has no events")
        return self._course

    def _go_on(self, stage: Stage) -> None:
        """Begin a later stage; what prevents it ends the turn."""
        try:
            left_s = self._left_s()
            if left_s is not None and left_s <= 0:
                self._settle("timeout")
            else:
                self._enter(stage)
        except ClosedError:  # between two stages: the same as in the middle of one
            self._settle("cancelled")
        except Exception as exc:  # noqa: BLE001  # raised by the next step that looks
            self._settle("error", failure=exc)

    def _enter(self, stage: Stage) -> None:
        later = self._stage is not None
        self._mailbox = mailbox = Mailbox(self._wake)
        self._stage, self._counted = stage, False
        self._stage_s = self._now() if later else self._began_s
        try:
            handle = self._begin(limited(stage, self._left_s()) if later else stage, mailbox.put)
        except BaseException:
            mailbox.put(GenerationEnded("cancelled"))  # nobody else will
            raise
        self._handle = handle
        if self._outcome is not None or self._dropped:  # by a signal handler or a finalizer, which had no handle yet
            handle.cancel()

    def _left_s(self) -> float | None:
        return None if self._timeout_s is None else self._began_s + self._timeout_s - self._now()

    def _count(self, ended: GenerationEnded) -> None:
        if not self._counted:
            self._counted = True
            silent = isinstance(self._stage, Ask) and self._stage.silent
            self._figures.add(ended, waited_s=self._stage_s - self._began_s, silent=silent)

    def _settle(
        self, reason: FinishReason, ended: GenerationEnded | None = None, *, failure: Exception | None = None
    ) -> None:
        """Fix the outcome and tell the session; `ended` is given if the consumer has all that the backend made."""
        if self._outcome is not None:
            return
        self._draft.end_calls()
        message, value = self._draft.message(reason, ended), None
        failure = failure or failure_of(reason, ended, message.content, self._timeout_s)
        if failure is None and ended is not None:
            try:
                value = self._decided().conclude(message, reason)
            except LocalLLMError as exc:
                failure = exc
        outcome = Outcome(
            message=message,
            finish_reason=reason,
            said=self._draft.said,
            value=value,
            dropped=self._left_out,
            results=tuple(self._draft.results),
            logprobs=tuple(self._draft.logprobs),
            notes=tuple(self._draft.notes),
            failure=failure,
            traceback=failure.__traceback__ if failure else None,
        )
        if failure is not None:
            told(failure, outcome.reply(self._figures.usage, self._figures.timings))
        self._outcome = outcome
        self._mailbox.discard()
        keep, self._keep = self._keep, None
        if keep is not None:
            keep((*self._draft.messages, message) if outcome.kept else None)
        self._wake()

    def _reply(self) -> Reply[object] | Literal[Pending.PENDING]:
        """The reply of a settled turn; its figures come with the stage's last event, so a cancelled one waits."""
        outcome, ended = self._outcome, self._mailbox.ended
        if outcome is None or ended is None:
            return PENDING
        if self._made is None:
            if isinstance(ended, GenerationEnded):
                self._count(ended)
            self._made = outcome.reply(self._figures.usage, self._figures.timings)
        return self._made


def _itself(event: StreamEvent[object] | None) -> StreamEvent[object] | None:
    return event

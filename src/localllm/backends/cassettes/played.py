"""One request to a cassette: its recorded reply, piece by piece, to its one end."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator

from attrs import define, evolve, field

from localllm.backends.base import GenerateRequest, Sink
from localllm.backends.cassettes.tape import CutCall, Part, RecordedReply
from localllm.backends.clock import Clock, timings_of
from localllm.backends.words import split_words
from localllm.backends.worker.failures import to_error
from localllm.errors import CassetteError, LocalLLMError
from localllm.types import (
    BackendEvent,
    FinishReason,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)

_log = logging.getLogger("localllm.backends")

_CANCEL_WAIT_S = 5.0  # a guess: a test that cancels has long done so by then


@define(eq=False, kw_only=True)
class PlayedRequest:
    """A request to a cassette, and its caller's handle. Everything but `cancel` runs on the model's thread.

    Args:
        request: What was asked.
        sink: Where its events go.
        reply: What is played, or what makes the error that it ends with.
        clock: Tells when it times out.
        submitted_s: When it was asked, by the clock.
        on_cancel: Tells the queue that it is to be ended; takes no lock.
        on_end: Counts it as ended; called once, before its end is told.
    """

    request: GenerateRequest
    _sink: Sink = field(alias="sink")
    _given: RecordedReply | Callable[[], CassetteError] = field(alias="reply")
    _clock: Clock = field(alias="clock")
    submitted_s: float
    _on_cancel: Callable[[PlayedRequest], None] = field(alias="on_cancel")
    _on_end: Callable[[PlayedRequest, Usage], None] = field(alias="on_end")
    accepted: bool = field(default=True, init=False)
    background: bool = field(default=False, init=False)
    ended: bool = field(default=False, init=False)
    deadline_s: float = field(init=False)
    due_s: float = field(default=0.0, init=False)
    _reply: RecordedReply = field(factory=RecordedReply, init=False)
    _events: Iterator[BackendEvent] = field(factory=lambda: iter(()), init=False)
    _said: int = field(default=0, init=False)
    _started_s: float | None = field(default=None, init=False)
    _first_s: float | None = field(default=None, init=False)
    _waits: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        timeout_s = self.request.options.timeout_s
        self.deadline_s = math.inf if timeout_s is None else self.submitted_s + timeout_s

    def cancel(self) -> None:
        """Ask for the request to end as soon as it can. Safe in a finalizer: takes no lock."""
        if not self.ended:
            self._on_cancel(self)

    def start(self) -> None:
        """Begin to play."""
        self._started_s = self.due_s = self._clock.now()
        if not isinstance(self._given, RecordedReply):
            self.end("error", self._given())
            return
        self._reply = self._given
        self._events = _events_of(self._reply.parts)
        total = self._reply.usage.prompt_tokens
        if total:
            self._push(PromptProgress(total, 0, total))

    def step(self) -> None:
        """Deliver the next piece, or the end."""
        event = next(self._events, None)
        if event is not None:
            self.due_s = self._clock.now()
            self._first_s = self.due_s if self._first_s is None else self._first_s
            self._said += _length(event)
            self._push(event)
        elif self._reply.finish_reason != "cancelled":
            error = self._reply.error
            self.end(self._reply.finish_reason, None if error is None else to_error(error))
        elif self._waits:
            self.end("error", self._not_cancelled())
        else:
            self._waits = True
            self.due_s = self._clock.now() + _CANCEL_WAIT_S

    def end(self, reason: FinishReason, error: LocalLLMError | None = None) -> None:
        """Deliver the end; a second call does nothing."""
        if self.ended:
            return
        self.ended = True
        usage = self._usage()
        self._on_end(self, usage)
        as_recorded = reason == self._reply.finish_reason
        calls, notes = (self._reply.tool_calls, self._reply.notes) if as_recorded else ((), ())
        taken = self._reply.taken_chars if as_recorded else 0
        timings = timings_of(
            submitted_s=self.submitted_s,
            started_s=self._started_s,
            first_s=self._first_s,
            ended_s=self._clock.now(),
            generated=usage.completion_tokens,
        )
        self._push(GenerationEnded(reason, usage, timings, None, calls, error, notes, taken))

    def _usage(self) -> Usage:
        """Return what was recorded; of a reply that is cut off now, the tokens of the part that was played."""
        recorded = self._reply.usage
        whole = sum(_length(event) for event in _events_of(self._reply.parts))
        if self._said == whole:
            return recorded if self._started_s is not None else Usage()
        tokens = math.ceil(recorded.completion_tokens * self._said / whole)
        return evolve(recorded, completion_tokens=tokens, thought_tokens=min(recorded.thought_tokens, tokens))

    def _not_cancelled(self) -> CassetteError:
        return CassetteError(
            f"the recorded reply was cancelled after {self._said} characters, and this time nobody has cancelled it "
            f"within {_CANCEL_WAIT_S:g} s: there is no more of it to play; record it anew"
        )

    def _push(self, event: BackendEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001  # somebody else's code, whose failure must not end the others' requests
            _log.exception("the sink of a request raised; the request is cancelled")
            self.cancel()


def _events_of(parts: tuple[Part, ...]) -> Iterator[BackendEvent]:
    """Return what is told of a reply's parts: texts word by word, the arguments of a call in one piece."""
    calls = 0
    for part in parts:
        match part:
            case TextDelta():
                yield from _pieces_of(part)
            case ToolCall():
                yield ToolCallStarted(calls, part.id, part.name)
                yield ToolCallDelta(calls, json.dumps(part.arguments, ensure_ascii=False))
                yield ToolCallEnded(calls, part)
                calls += 1
            case CutCall():
                yield ToolCallStarted(calls, part.id, part.name)
                if part.arguments:
                    yield ToolCallDelta(calls, part.arguments)
                calls += 1


def _pieces_of(part: TextDelta) -> Iterator[TextDelta]:
    """Return a text word by word; with log-probabilities token by token, where their texts are the text."""
    if not part.logprobs:
        yield from (TextDelta(word, part.segment) for word in split_words(part.text))
    elif "".join(one.text for one in part.logprobs) == part.text and all(one.text for one in part.logprobs):
        yield from (TextDelta(one.text, part.segment, logprobs=(one,)) for one in part.logprobs)
    else:  # a stop text that was cut off, a character of several tokens
        yield part


def _length(event: BackendEvent) -> int:
    """Return how many characters an event brings."""
    match event:
        case TextDelta():
            return len(event.text)
        case ToolCallDelta():
            return len(event.arguments)
        case _:
            return 0

"""One request on its way through a worker, and perhaps through several lives of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from attrs import define, evolve, field

from localllm.backends.base import GenerateRequest, ResumePoint, Sink
from localllm.backends.worker.deadlines import Waiting
from localllm.backends.worker.link import Link
from localllm.backends.worker.messages import Cancel
from localllm.errors import GenerationTimeoutError, LocalLLMError
from localllm.options import RequestOptions
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    Timings,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)

_log = logging.getLogger("localllm.worker")

FRUITLESS_LIVES = 3
"""Crashes in a row without a token of its own, the last of them alone, that a request is held to be the cause of."""

_LEAST_TIMEOUT_S = 1e-3


@define(eq=False)
class ActiveRequest:
    """A request that has not ended.

    Its events come from one thread at a time: the reader of its link, or the supervisor while it has none.

    Args:
        id: Its number.
        request: What was asked.
        sink: Where its events go.
        resumes: Whether what is needed to go on after a crash is kept.
    """

    id: int
    request: GenerateRequest
    sink: Sink
    resumes: bool
    link: Link | None = None
    accepted: bool = False
    overlooked: int = 0
    cancelled: bool = False
    ended: bool = False
    late: GenerationTimeoutError | None = None
    late_s: float = 0.0
    lives: int = 0
    fruitless: int = 0
    submitted_s: float = field(factory=time.monotonic)
    _begun_s: float | None = None
    _first_token_s: float | None = None
    _token_s: float | None = None
    _progress: PromptProgress | None = None
    _tokens: list[int] = field(factory=list)
    _chars: int = 0
    _deltas: int = 0

    def send(self, link: Link) -> GenerateRequest:
        """Note that it goes to `link`, and return what to send there."""
        self.link = link
        self.accepted = False
        self._begun_s = self._token_s = None  # a new life has limits of its own
        if not self.lives:
            return self.request
        point = ResumePoint(token_ids=tuple(self._tokens), delivered_chars=self._chars)
        return evolve(self.request, resume=point if self._deltas else None, options=self._options_left())

    def receive(self, event: BackendEvent) -> None:
        """Pass an event on."""
        now_s = time.monotonic()
        match event:
            case TextDelta():
                self._note_text(event, now_s)
                self._push(event)
            case ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
                self._note_tokens(event.token_ids, now_s)
                self._push(event)
            case PromptProgress():
                self._begun_s = self._begun_s or now_s
                self._progress = event
                if not self._deltas:  # else a prompt is read again, which is no news to anybody
                    self._push(event)
            case GenerationEnded():
                self._end(self._as_seen(event, now_s))

    def end(self, reason: Literal["cancelled", "timeout", "error"], error: LocalLLMError | None = None) -> None:
        """End it without the worker, which is gone."""
        now_s = time.monotonic()
        self._end(GenerationEnded(reason, self._usage(), self._timings(now_s, self._count()), error=error))

    def unseen(self) -> bool:
        """Note that its worker crashed; whether the backend had not been given it by then, as far as can be known.

        One that kills its worker at once may do so before the worker could tell that it was given it. So that is
        believed once.
        """
        self.overlooked += not self.accepted
        return not self.accepted and self.overlooked < 2

    def survives(self, *, alone: bool) -> bool:
        """Note that its worker crashed; False if that is to be blamed on this request, which ran `alone` by then."""
        self.lives += 1
        self.fruitless = 0 if self.proven else self.fruitless + 1
        return not alone or self.proven

    @property
    def suspect(self) -> bool:
        """Whether it was part of a crash without a token of its own before it."""
        return self.fruitless > 0

    @property
    def proven(self) -> bool:
        """Whether it has brought a token since it was sent."""
        return self._token_s is not None

    def waiting(self, other_s: float) -> Waiting:
        """Return what its limits depend on."""
        return Waiting(
            submitted_s=self.submitted_s,
            begun_s=self._begun_s,
            token_s=self._token_s,
            other_s=other_s,
            own_limit_s=self.request.options.timeout_s,
        )

    def out_of_time(self, now_s: float) -> bool:
        """Whether its own `timeout_s` has passed."""
        limit_s = self.request.options.timeout_s
        return limit_s is not None and now_s - self.submitted_s > limit_s

    def cancel(self) -> None:
        """Pass a cancel on, if there is a worker to pass it to; takes no lock."""
        self.cancelled = True
        link = self.link
        if link is not None:
            link.post(Cancel(self.id))

    def _options_left(self) -> RequestOptions:
        limit_s = self.request.options.timeout_s
        if limit_s is None:
            return self.request.options
        left_s = max(limit_s - (time.monotonic() - self.submitted_s), _LEAST_TIMEOUT_S)
        return evolve(self.request.options, timeout_s=left_s)

    def _note_text(self, event: TextDelta, now_s: float) -> None:
        self._chars += len(event.text)
        self._note_tokens(event.token_ids, now_s)

    def _note_tokens(self, tokens: tuple[int, ...], now_s: float) -> None:
        self._begun_s = self._begun_s or now_s
        self._first_token_s = self._first_token_s or now_s
        self._token_s = now_s
        self._deltas += 1
        if self.resumes:
            self._tokens.extend(tokens)

    def _as_seen(self, event: GenerationEnded, now_s: float) -> GenerationEnded:
        """Return an end as the caller should see it: with its own reason, and figures of all its lives."""
        if self.late is not None and event.finish_reason == "cancelled":
            event = evolve(event, finish_reason="timeout", error=self.late)
        if self.lives:
            event = evolve(event, timings=self._timings(now_s, event.usage.completion_tokens))
        return event

    def _end(self, event: GenerationEnded) -> None:
        if not self.ended:
            self.ended = True
            self._push(event)

    def _push(self, event: BackendEvent) -> None:
        try:
            self.sink(event)
        except Exception:  # noqa: BLE001  # a sink is somebody else's code; other requests must not suffer from it
            _log.error("the sink of a request raised", exc_info=True)

    def _count(self) -> int:
        return len(self._tokens) or self._deltas

    def _usage(self) -> Usage:
        """Return the figures as far as they are known here."""
        progress = self._progress
        return Usage(
            prompt_tokens=progress.total_tokens if progress else 0,
            cached_tokens=progress.cached_tokens if progress else 0,
            completion_tokens=self._count(),
        )

    def _timings(self, now_s: float, tokens: int) -> Timings:
        first_s = self._first_token_s
        if first_s is None:
            return Timings(queue_s=now_s - self.submitted_s)
        decode_s = now_s - first_s
        return Timings(
            prefill_s=first_s - self.submitted_s,
            first_token_s=first_s - self.submitted_s,
            decode_s=decode_s,
            tokens_per_s=(tokens - 1) / decode_s if tokens > 1 and decode_s > 0 else 0.0,
        )


class Handle:
    """The caller's handle of a request.

    Args:
        active: The request.
        wake: Has the supervisor look at it; takes no lock.
    """

    __slots__ = ("_active", "_wake")

    def __init__(self, active: ActiveRequest, wake: Callable[[], object]) -> None:
        self._active = active
        self._wake = wake

    def cancel(self) -> None:
        """Ask for the request to end; takes no lock."""
        self._active.cancel()
        if self._active.link is None:
            self._wake()

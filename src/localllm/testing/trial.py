"""What the checks of the conformance suite share: a loaded model, its requests, and the rules for all of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from attrs import define, evolve, field, frozen

from localllm.backends.base import Backend, GenerateRequest, LoadedModel, ModelSpec, Purpose
from localllm.errors import ConformanceError, LocalLLMError
from localllm.options import GenerationOptions, ModelConfig, RequestOptions
from localllm.testing.events import EventLog
from localllm.types import FINISH_REASONS, BackendEvent, GenerationEnded, Message, TextDelta

PROMPT = "Tell me a long story about a fox."
"""What the suite asks: short, and most models answer it at length."""

LONG = 16
"""Tokens that the reply to the suite's prompt must have at least."""

_SLACK_S = 0.25  # a busy machine may stop a thread between reading the clock and telling what it read


@frozen(kw_only=True)
class Subject:
    """The backend under test; see `check_backend` for the fields."""

    factory: Callable[[], Backend]
    ref: str | Path
    config: ModelConfig
    requests: int
    prompt: str
    failing: Callable[[], Backend] | None
    wait_s: float

    def spec(self, backend: Backend) -> ModelSpec:
        """Return how to load the model."""
        path = Path(self.ref) if backend.uses_files or isinstance(self.ref, Path) else None
        return ModelSpec(ref=str(self.ref), path=path, config=self.config)


def require(holds: bool, broken: str) -> None:
    """Raise ConformanceError, which says what is `broken`, unless the rule `holds`."""
    if not holds:
        raise ConformanceError(broken)


def in_threads(seconds: float, what: str, *actions: Callable[[], object]) -> None:
    """Do `actions` at once, each on a thread of its own; raise what one raises, or ConformanceError if one hangs."""
    failures: list[BaseException] = []

    def run(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as exc:  # noqa: BLE001  # raised below, on the caller's thread
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(action,), name="conformance", daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        require(not thread.is_alive(), f"{what} did not return within {seconds} s")
    for failure in failures:
        raise failure


@define(eq=False)
class Asked:
    """A request that was made: its log and its cancel."""

    request: GenerateRequest
    wait_s: float
    log: EventLog
    _made: threading.Event = field(factory=threading.Event)
    began_s: float = field(factory=time.monotonic)
    ended_s: float = math.inf
    cancelled: bool = False
    _cancel: Callable[[], None] | None = None

    def start(self, trial: Trial) -> None:
        """Make the request."""
        self._cancel = self.log.start(trial.model, self.request)
        self._made.set()

    def cancel(self) -> None:
        """Cancel it."""
        self._made.wait(5.0)  # a sink may be called before its caller has the handle; a wrong backend is not waited for
        self.cancelled = self.cancelled or self.log.end is None
        if self._cancel is not None:
            self._cancel()

    def end(self) -> GenerationEnded:
        """Return the end, as soon as there is one.

        Raises:
            ConformanceError: There is none for too long.
        """
        try:
            return self.log.wait(self.wait_s)
        except TimeoutError as exc:
            raise ConformanceError(f"a request never ended: {exc}") from exc

    def said(self) -> str:
        """Return all that the reply says, thoughts included."""
        self.end()
        return "".join(delta.text for delta in self.log.deltas)

    def wait_for_text(self) -> None:
        """Return once there is text, or the end without any."""
        try:
            self.log.wait_for_text(self.wait_s)
        except TimeoutError as exc:
            raise ConformanceError(f"a request made nothing: {exc}") from exc


class Trial:
    """A freshly loaded model for one check. At its end everything is closed, and every request is held to the rules.

    Args:
        subject: What is tested.
        config: In place of the subject's.
    """

    def __init__(self, subject: Subject, *, config: ModelConfig | None = None) -> None:
        self.subject: Subject = subject if config is None else evolve(subject, config=config)
        self.backend: Backend = subject.factory()
        try:
            self.model: LoadedModel = self.backend.load(self.subject.spec(self.backend))
        except BaseException:
            self.backend.close()
            raise
        self._asked: list[Asked] = []
        self.closing_s: float = math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if error is None:
            for asked in self._asked:
                _hold_to_the_rules(asked, self)

    def close(self) -> None:
        """Close the model and the backend."""
        self.close_model()
        in_threads(self.subject.wait_s, "close of the backend", self.backend.close)

    def close_model(self, times: int = 1) -> None:
        """Close the model, so many times at once."""
        self.closing()
        in_threads(self.subject.wait_s, "close of the model", *[self.model.close] * times)

    def closing(self) -> None:
        """From now on, requests may end as cancelled."""
        self.closing_s = min(self.closing_s, time.monotonic())

    def ask(
        self,
        prompt: str | None = None,
        *,
        on_event: Callable[[BackendEvent, Asked], None] | None = None,
        purpose: Purpose = "reply",
        **options: Unpack[GenerationOptions],
    ) -> Asked:
        """Make a request, greedy and with a fixed seed unless `options` say otherwise; returns at once.

        Args:
            prompt: What the user says; the subject's prompt by default.
            on_event: Called on the backend's thread with each event.
            purpose: What it is for.
            options: The request's options.
        """
        request = GenerateRequest(
            messages=(Message.user(self.subject.prompt if prompt is None else prompt),),
            options=RequestOptions.of({"temperature": 0.0, "seed": 0}, options),
            purpose=purpose,
        )
        return self.send(request, on_event)

    def send(self, request: GenerateRequest, on_event: Callable[[BackendEvent, Asked], None] | None = None) -> Asked:
        """Make `request`; returns at once."""

        def watch(event: BackendEvent) -> None:
            if isinstance(event, GenerationEnded):
                asked.ended_s = time.monotonic()
            if on_event is not None:
                on_event(event, asked)

        log = EventLog(watch)
        asked = Asked(request, self.subject.wait_s, log)
        asked.start(self)
        self._asked.append(asked)  # after: one that raised ClosedError was not made
        return asked

    def after_text(self, action: Callable[[Asked], None]) -> Callable[[BackendEvent, Asked], None]:
        """Return an `on_event` that does `action` once, at the first text, on the backend's thread."""
        done: list[bool] = []

        def on_event(event: BackendEvent, asked: Asked) -> None:
            if isinstance(event, TextDelta) and not done:
                done.append(True)
                action(asked)

        return on_event


def _hold_to_the_rules(asked: Asked, trial: Trial) -> None:
    """Check what holds for every request, however it ended. By now the model is closed, so nothing more can come."""
    log, end = asked.log, asked.log.end
    if end is None:
        raise ConformanceError(f"a request had no end when close returned; seen: {log.events!r:.200}")
    require(not log.problems, "; ".join(log.problems))
    require(end.finish_reason in FINISH_REASONS, f"finish_reason is {end.finish_reason!r}")
    if end.finish_reason == "error":
        require(isinstance(end.error, LocalLLMError), f"an error must be a LocalLLMError, not {end.error!r:.120}")
    if end.finish_reason == "cancelled":
        closed = asked.ended_s >= trial.closing_s
        require(asked.cancelled or closed, "a request that nobody cancelled ended with 'cancelled'")
    if end.finish_reason == "timeout":
        require(asked.request.options.timeout_s is not None, "a request without timeout_s ended with 'timeout'")
    if end.token_ids is not None:
        known, given = trial.model.info.model_hash, end.token_ids.model_hash
        require(bool(known) and given == known, f"token_ids are of the model {given!r}, and this is {known!r}")
    _check_usage(asked, end)
    _check_timings(asked, end)


def _check_usage(asked: Asked, end: GenerationEnded) -> None:
    usage = end.usage
    require(0 <= usage.cached_tokens <= usage.prompt_tokens, f"{usage} does not hold 0 <= cached <= prompt")
    require(0 <= usage.thought_tokens <= usage.completion_tokens, f"{usage} does not hold 0 <= thought <= completion")
    most = asked.request.options.max_tokens
    require(most is None or usage.completion_tokens <= most, f"max_tokens={most}, and {usage}")
    require(not asked.log.deltas or usage.completion_tokens > 0, f"text came, and {usage} counts no token for it")
    require(not asked.log.deltas or usage.prompt_tokens > 0, f"text came, and {usage} counts no prompt")


def _check_timings(asked: Asked, end: GenerationEnded) -> None:
    timings, tokens = end.timings, end.usage.completion_tokens
    figures = (timings.queue_s, timings.prefill_s, timings.first_token_s, timings.decode_s, timings.tokens_per_s)
    require(all(math.isfinite(figure) and figure >= 0 for figure in figures), f"{timings} holds a negative figure")
    took_s = asked.ended_s - asked.began_s
    spent_s = timings.queue_s + timings.prefill_s + timings.decode_s
    require(spent_s <= took_s + _SLACK_S, f"{timings} adds up to {spent_s:.3f} s, and the request took {took_s:.3f} s")
    if tokens == 0:
        require(timings.first_token_s == 0, f"first_token_s is that of a token, and there was none: {timings}")
        return
    until_first_s = timings.queue_s + timings.prefill_s
    close = math.isclose(timings.first_token_s, until_first_s, rel_tol=0.01, abs_tol=0.001)
    require(close, f"first_token_s is not queue_s + prefill_s in {timings}")
    if tokens > 1 and timings.decode_s > 0:
        rate = (tokens - 1) / timings.decode_s
        require(
            math.isclose(timings.tokens_per_s, rate, rel_tol=0.01), f"{tokens} tokens are {rate} a second: {timings}"
        )

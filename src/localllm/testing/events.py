"""A sink that remembers, and what it remembers: for tests that talk to a backend directly."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from attrs import frozen

from localllm.backends.base import GenerateRequest, LoadedModel
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)


class EventLog:
    """A sink that records a request's events, from any thread, and notes what breaks the port's rules.

    Args:
        on_event: Called with each event, on the backend's thread, before it is recorded.
    """

    def __init__(self, on_event: Callable[[BackendEvent], None] | None = None) -> None:
        self._on_event = on_event
        self._changed = threading.Condition()
        self._events: list[BackendEvent] = []
        self._inside = threading.Lock()
        self._generating: int | None = None
        self._problems: list[str] = []
        self._end: GenerationEnded | None = None
        self._begun = False

    def __call__(self, event: BackendEvent) -> None:
        """Record `event`: this is the sink."""
        alone = self._inside.acquire(blocking=False)
        try:
            time.sleep(0)  # offers the turn to another thread that is about to break the rule that we note here
            if self._on_event is not None:
                self._on_event(event)
            with self._changed:
                self._note(event, alone)
                self._events.append(event)
                self._changed.notify_all()
        finally:
            if alone:
                self._inside.release()

    @property
    def events(self) -> tuple[BackendEvent, ...]:
        """The events so far, in the order in which they came."""
        with self._changed:
            return tuple(self._events)

    @property
    def text(self) -> str:
        """The text so far, thoughts left out."""
        return "".join(delta.text for delta in self.deltas if delta.segment == "text")

    @property
    def deltas(self) -> tuple[TextDelta, ...]:
        """The pieces so far, thoughts included."""
        return tuple(event for event in self.events if isinstance(event, TextDelta))

    @property
    def end(self) -> GenerationEnded | None:
        """The end, or None while there is none."""
        return self._end

    @property
    def problems(self) -> tuple[str, ...]:
        """What was seen that breaks the rules of `localllm.backends.base`, each as a sentence."""
        with self._changed:
            return tuple(self._problems)

    def start(self, model: LoadedModel, request: GenerateRequest) -> Callable[[], None]:
        """Ask `model` for a reply with this log as its sink; return what cancels it."""
        self._generating = threading.get_ident()
        try:
            return model.generate(request, self).cancel
        finally:
            self._generating = None

    def wait(self, timeout_s: float = 60.0) -> GenerationEnded:
        """Return the end, as soon as there is one.

        Raises:
            TimeoutError: There was none within `timeout_s` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._end is not None, timeout_s) or self._end is None:
                raise TimeoutError(f"no end within {timeout_s} s; seen so far: {self._events!r:.200}")
            return self._end

    def wait_for_text(self, timeout_s: float = 60.0) -> None:
        """Return once there is text, or the end without any.

        Raises:
            TimeoutError: There was neither within `timeout_s` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._begun or self._end is not None, timeout_s):
                raise TimeoutError(f"neither text nor an end within {timeout_s} s; seen so far: {self._events!r:.200}")

    def _note(self, event: BackendEvent, alone: bool) -> None:
        """Remember what `event` is, and what is wrong with its coming now."""
        if not alone:
            self._problems.append(f"{event!r:.120} came while another event was being delivered")
        if self._generating == threading.get_ident():
            self._problems.append(f"{event!r:.120} came on the caller's thread, before generate returned")
        if self._end is not None:
            self._problems.append(f"{event!r:.120} came after the end {self._end!r:.120}")
        match event:
            case GenerationEnded():
                self._end = self._end or event
            case TextDelta():
                self._begun = True
                if not event.text:
                    self._problems.append("a TextDelta was empty")
            case ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
                self._begun = True
            case PromptProgress():
                if not 0 <= event.cached_tokens <= event.processed_tokens <= event.total_tokens:
                    self._problems.append(f"{event!r} does not add up: 0 <= cached <= processed <= total")
            case _:
                self._problems.append(f"{event!r:.120} is no event")


@frozen
class Collected:
    """A whole reply of a backend.

    Args:
        text: The text, thoughts left out.
        end: How it ended, with its figures.
        events: All events, in order.
    """

    text: str
    end: GenerationEnded
    events: tuple[BackendEvent, ...]


def collect(model: LoadedModel, request: GenerateRequest, *, timeout_s: float = 60.0) -> Collected:
    """Ask `model` for a reply and return all of it.

    Args:
        model: A loaded model of any backend.
        request: What to ask.
        timeout_s: Real seconds to wait at most.

    Raises:
        ClosedError: The model is closed.
        TimeoutError: There was no end within `timeout_s`; the request is cancelled then.
    """
    log = EventLog()
    cancel = log.start(model, request)
    try:
        end = log.wait(timeout_s)
    except BaseException:
        cancel()
        raise
    return Collected(log.text, end, log.events)

"""A backend whose loads wait for the test, and whose models are counted: what the tests of residency share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localllm import (
    GenerateRequest,
    GenerationEnded,
    LoadCancelledError,
    LoadedModel,
    LoadProgress,
    ModelSpec,
    ProgressCallback,
    Sink,
)
from localllm.types import BackendEvent, TextDelta
from tests.by_hand import HandBackend, Handle, HandModel

LIMIT_S = 15.0


class Gate:
    """Where a thread waits until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Semaphore(0)
        self._opened = threading.Semaphore(0)

    def pass_through(self) -> None:
        """Wait here; for the thread under test."""
        self._reached.release()
        assert self._opened.acquire(timeout=LIMIT_S), "nobody opened the gate"

    def wait(self) -> None:
        """Wait until a thread has come."""
        assert self._reached.acquire(timeout=LIMIT_S), "nobody came to the gate"

    def open(self, times: int = 1) -> None:
        """Let threads go on."""
        for _ in range(times):
            self._opened.release()


class Loads(HandBackend):
    """Makes a new `HandModel` for each load, and keeps them.

    Args:
        gate: Where each load waits, after its first progress; None is nowhere.
        errors: What the next loads raise; None lets one succeed.
        closing: Where each close of a model waits.
    """

    def __init__(
        self, gate: Gate | None = None, *errors: Exception | None, closing: Gate | None = None, obeys: bool = True
    ) -> None:
        super().__init__()
        self.gate, self.errors, self.closing, self.obeys = gate, list(errors), closing, obeys
        self.made: list[HandModel] = []

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        self.specs.append(spec)
        assert on_progress is not None
        for fraction in (0.0, 1.0):
            if on_progress(LoadProgress("loading", fraction)) is False:
                raise LoadCancelledError("obeyed")
            if fraction == 0.0 and self.gate is not None:
                self.gate.pass_through()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        model = _Closing(self.closing, obeys=self.obeys)
        self.made.append(model)
        return model


class _Closing(HandModel):
    """Ends its requests when it is closed, perhaps at a gate."""

    def __init__(self, gate: Gate | None, *, obeys: bool) -> None:
        super().__init__(obeys=obeys)
        self._gate = gate
        self._over: set[int] = set()

    def close(self) -> None:
        first = not self.closed
        super().close()
        if first:
            if self._gate is not None:
                self._gate.pass_through()
            for index in range(len(self.requests)):
                if index not in self._over:
                    self.end(GenerationEnded("cancelled"), request=index)

    def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
        index = len(self.requests)

        def watched(event: BackendEvent) -> None:
            if isinstance(event, GenerationEnded):
                self._over.add(index)
            sink(event)

        return super().generate(request, watched)


class Log:
    """The events of a request, and a wait for its end."""

    def __init__(self) -> None:
        self.events: list[BackendEvent] = []
        self._ended = threading.Event()

    def __call__(self, event: BackendEvent) -> None:
        self.events.append(event)
        if isinstance(event, GenerationEnded):
            assert not self._ended.is_set(), "a second end"
            self._ended.set()

    def end(self) -> GenerationEnded:
        """Wait for the end and return it."""
        assert self._ended.wait(LIMIT_S), "the request did not end"
        end = self.events[-1]
        assert isinstance(end, GenerationEnded)
        return end

    @property
    def text(self) -> str:
        """What it said."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds that another thread brings about."""
    pause = threading.Event()
    for _ in range(int(LIMIT_S / 0.002)):
        if holds():
            return
        pause.wait(0.002)
    raise AssertionError(f"not within {LIMIT_S} s: {what}")


@contextmanager
def no_thread_left() -> Iterator[None]:
    """All threads that the block has started end soon after it."""
    before = set(threading.enumerate())
    yield
    until(lambda: set(threading.enumerate()) <= before, f"{set(threading.enumerate()) - before} end")

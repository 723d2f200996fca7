"""A backend without any life of its own: a test pushes each event, and sees what the sessions ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from localllm import (
    Backend,
    GenerateRequest,
    GenerationEnded,
    LoadedModel,
    Model,
    ModelInfo,
    ModelManager,
    ModelSpec,
    ModelStats,
    ProgressCallback,
    RenderedPrompt,
    Sink,
    TextDelta,
    ToolDefinition,
)
from localllm.types import Message


class Handle:
    """A request; its cancel ends it at once, in the caller's thread, which is as abrupt as a backend may be."""

    def __init__(self, model: HandModel, index: int, sink: Sink) -> None:
        self.model, self.index, self.sink = model, index, sink

    def cancel(self) -> None:
        self.model.cancelled.append(self.index)
        if self.model.obeys:
            self.sink(GenerationEnded("cancelled"))


class HandModel(LoadedModel):
    """Records requests and cancels.

    Args:
        on_generate: Called with each request; what it raises breaks the rules.
        obeys: Whether a cancel ends the request at once, or only when the test says so.
    """

    def __init__(self, on_generate: Callable[[GenerateRequest], None] | None = None, *, obeys: bool = True) -> None:
        self.on_generate, self.obeys = on_generate, obeys
        self.requests: list[GenerateRequest] = []
        self.cancelled: list[int] = []
        self.closed = 0
        self._sinks: list[Sink] = []

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(name="by hand", backend="hand")

    def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
        if self.on_generate is not None:
            self.on_generate(request)
        self.requests.append(request)
        self._sinks.append(sink)
        return Handle(self, len(self.requests) - 1, sink)

    def say(self, *texts: str, request: int = -1) -> None:
        """Push pieces of text."""
        for text in texts:
            self._sinks[request](TextDelta(text))

    def end(self, ended: GenerationEnded, request: int = -1) -> None:
        """Push the last event."""
        self._sinks[request](ended)

    def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def detokenize(self, tokens: Sequence[int]) -> str:
        raise IndexError("no such token")

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        return RenderedPrompt(repr(messages), ())

    def stats(self) -> ModelStats:
        return ModelStats(finished=len(self.cancelled))

    def close(self) -> None:
        self.closed += 1


class HandBackend(Backend):
    """Loads one `HandModel`, or fails as told.

    Args:
        model: What `load` returns.
        before: Called within `load`, with what to tell the progress.
    """

    name = "hand"

    def __init__(
        self, model: HandModel | None = None, before: Callable[[ProgressCallback], object] | None = None
    ) -> None:
        self.model = model or HandModel()
        self.before = before
        self.specs: list[ModelSpec] = []
        self.closed = 0

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        self.specs.append(spec)
        if self.before is not None and on_progress is not None:
            self.before(on_progress)
        return self.model

    def close(self) -> None:
        self.closed += 1


def loaded(model: HandModel) -> Model:
    """Return the handle of `model`, as a manager gives it."""
    return ModelManager(HandBackend(model)).load("by hand")

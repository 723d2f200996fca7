"""What the tests of cassettes share: models to be recorded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve

from localllm import (
    FakeBackend,
    FakeReply,
    GenerateHandle,
    GenerateRequest,
    GenerationEnded,
    LoadedModel,
    Message,
    ModelSpec,
    ProgressCallback,
    RecordingBackend,
    RenderedPrompt,
    ReplayBackend,
    Sink,
    TemplateError,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolDefinition,
)
from localllm.testing import collect
from localllm.testing.events import Collected
from localllm.types import BackendEvent, TokenLogprob
from tests.backends import mutants


def record(path: Path, *script: str | FakeReply | Exception) -> RecordingBackend:
    """A backend that records these replies."""
    return RecordingBackend(FakeBackend(script), path)


class _Parrot(mutants.Wrapped):
    """Says the same whatever the grammar and the tools, and how likely each word was."""

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        left = iter(range(9))

        def add_logprobs(event: BackendEvent) -> None:
            if isinstance(event, TextDelta) and request.options.top_logprobs is not None:
                index = next(left)
                top = (index, event.text, -1 / 3)
                event = evolve(event, logprobs=(TokenLogprob(*top, (top,)),))
            sink(event)

        return self.inner.generate(evolve(request, grammar=None, tools=(), prefix=""), add_logprobs)


class Caller(mutants.Wrapped):
    """Calls a tool, begins to call another one, and knows no template."""

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        def call_tools(event: BackendEvent) -> None:
            if isinstance(event, GenerationEnded):
                for made in self.made:
                    sink(made)
                event = evolve(event, finish_reason="length", tool_calls=(self.call,))
            sink(event)

        return self.inner.generate(request, call_tools)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        raise TemplateError("roles must alternate")

    call = ToolCall("weather", {"city": "Rome"}, "call_1")
    made = (
        ToolCallStarted(0, "call_1", "weather"),
        ToolCallDelta(0, '{"city"'),
        ToolCallDelta(0, ': "Rome"}'),
        ToolCallEnded(0, call),
        ToolCallStarted(1, "call_2", "time"),
        ToolCallDelta(1, '{"zo'),
    )


class CallingBackend(FakeBackend):
    """Its models call tools after each reply."""

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:  # type: ignore[override]
        return Caller(super().load(spec, on_progress))


class Parrot(FakeBackend):
    """Its models say so, always."""

    said = ("I", " say", " so.")

    def __init__(self) -> None:
        super().__init__(itertools.repeat("".join(self.said)))

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:  # type: ignore[override]
        return _Parrot(super().load(spec, on_progress))


def ask(backend: RecordingBackend | ReplayBackend, request: GenerateRequest) -> Collected:
    """Ask a model of `backend` directly, and close it."""
    with backend:
        return collect(backend.load(ModelSpec(ref="any")), request)

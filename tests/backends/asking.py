"""Short ways to ask a loaded model for replies, at the level of the port."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from localllm._json import JsonValue
from localllm.backends.base import Backend, GenerateHandle, GenerateRequest, LoadedModel, ModelSpec, ResumePoint
from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from localllm.models.store import ModelStore
from localllm.options import ModelConfig, RequestOptions
from localllm.types import BackendEvent, GenerationEnded, Message, TextDelta, TokenLogprob


class Asked:
    """One request and what came of it; the sink of its own events."""

    handle: GenerateHandle

    def __init__(self) -> None:
        self.events: list[BackendEvent] = []
        self._ended = threading.Event()

    def __call__(self, event: BackendEvent) -> None:
        """Take an event."""
        self.events.append(event)
        if isinstance(event, GenerationEnded):
            self._ended.set()

    def wait(self) -> None:
        """Wait for the end."""
        assert self._ended.wait(60)

    @property
    def end(self) -> GenerationEnded:
        """Wait for the end, and return it."""
        self.wait()
        last = self.events[-1]
        assert isinstance(last, GenerationEnded)
        return last

    @property
    def text(self) -> str:
        """The reply's text, once it has ended."""
        self.wait()
        return "".join(event.text for event in self.events if isinstance(event, TextDelta) and event.segment == "text")

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """The log-probabilities that came with it."""
        return [one for event in self.events if isinstance(event, TextDelta) for one in event.logprobs]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens generated."""
        ids = self.end.token_ids
        return () if ids is None else ids.tokens


def ask(
    model: LoadedModel,
    prompt: str = "Tell me about a person.",
    *,
    grammar: Grammar | None = None,
    tools: tuple[ToolDefinition, ...] = (),
    prefix: str = "",
    resume: ResumePoint | None = None,
    options: Mapping[str, object] | None = None,
    **more: object,
) -> Asked:
    """Begin to ask, with `options` and `more` of them; the answer is complete when its `end` is there."""
    asked = Asked()
    request = GenerateRequest(
        messages=(Message.user(prompt),),
        options=RequestOptions.of({"max_tokens": 200}, options or {}, more),
        grammar=grammar,
        tools=tools,
        prefix=prefix,
        resume=resume,
    )
    asked.handle = model.generate(request, asked)
    return asked


def json_grammar(schema: Mapping[str, JsonValue]) -> Grammar:
    """Return what holds a reply to a JSON Schema."""
    return Grammar("json_schema", json.dumps(schema))


def load(backend: Backend, **config: object) -> LoadedModel:
    """Load the small model."""
    path = ModelStore().resolve("smollm2-135m")
    made = ModelConfig(**{"n_ctx": 2048, **config})  # type: ignore[arg-type]
    return backend.load(ModelSpec(ref=str(path), path=Path(str(path)), config=made))

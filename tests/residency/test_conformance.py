"""A model behind a manager keeps every rule of the port, also one that leaves the memory whenever it can."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest
from attrs import evolve

from localllm import (
    Backend,
    BackendEvent,
    FakeBackend,
    FakeReply,
    GenerateHandle,
    GenerateRequest,
    GenerationEnded,
    LoadedModel,
    Message,
    Model,
    ModelBusyError,
    ModelInfo,
    ModelManager,
    ModelSpec,
    ModelStats,
    ProgressCallback,
    RenderedPrompt,
    Sink,
    ToolDefinition,
)
from localllm.testing import Check, backend_checks
from tests.backends.mutants import LONG_TEXT


class Managed(Backend):
    """A manager's models as a backend.

    Args:
        inner: What loads them.
        restless: Unload a model before each request, if it has nothing to do.
    """

    name = "managed"

    def __init__(self, inner: Backend, *, restless: bool) -> None:
        self._inner = inner
        self._models = ModelManager(inner)
        self._restless = restless

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        model = self._models.load(spec.ref, config=spec.config, on_progress=on_progress)
        return ManagedModel(self._models, model, restless=self._restless)

    def close(self) -> None:
        self._models.close()
        self._inner.close()


class ManagedModel(LoadedModel):
    """A handle as a backend's model."""

    def __init__(self, models: ModelManager, model: Model, *, restless: bool) -> None:
        self._models, self._model, self._restless = models, model, restless

    @property
    def info(self) -> ModelInfo:
        return evolve(self._model.info, backend="managed")

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        if self._restless:
            with suppress(ModelBusyError):
                self._models.unload(self._model)

        def without_tokens(event: BackendEvent) -> None:
            # A fake's words get their ids as they come by, so those of one load mean nothing to the next.
            sink(evolve(event, token_ids=None) if isinstance(event, GenerationEnded) else event)

        return self._model.submit(request, without_tokens if self._restless else sink)

    def tokenize(self, text: str) -> tuple[int, ...]:
        return self._model.tokenize(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self._model.detokenize(tokens)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        return self._model.render(messages, tools=tools)

    def stats(self) -> ModelStats:
        return self._model.stats()

    def close(self) -> None:
        self._model.close()


def _fake(reply: FakeReply, *, restless: bool) -> Callable[[], Backend]:
    return lambda: Managed(FakeBackend(itertools.repeat(reply)), restless=restless)


@pytest.mark.parametrize("restless", [False, True], ids=["calm", "restless"])
@pytest.mark.parametrize("check", backend_checks(), ids=lambda check: check.name)
def test_a_managed_model_keeps_the_rules(check: Check, restless: bool) -> None:
    """One check of `localllm.testing.check_backend`."""
    check.run(
        _fake(FakeReply(LONG_TEXT), restless=restless),
        failing=_fake(FakeReply(LONG_TEXT, error=ValueError("midway"), error_at=5), restless=restless),
        requests=300,
    )

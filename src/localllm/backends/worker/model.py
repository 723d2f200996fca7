"""A model in a worker, as the port wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from localllm.backends.base import GenerateHandle, GenerateRequest, LoadedModel, Sink
from localllm.backends.worker.info import WorkerInfo
from localllm.backends.worker.messages import (
    Detokenize,
    PromptIs,
    Question,
    Render,
    Stats,
    StatsAre,
    TextIs,
    Tokenize,
    TokensAre,
)
from localllm.backends.worker.supervisor import Supervisor
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import InvalidOptionError, LocalLLMError, WorkerProtocolError
from localllm.models.info import ModelInfo
from localllm.types import Message

_F = TypeVar("_F")


class WorkerModel(LoadedModel):
    """A model that is loaded in a process of its own; made by `WorkerBackend.load`.

    Args:
        info: Its facts, as loaded.
        supervisor: Its worker; owned.
        on_closed: Told once it is closed.
    """

    def __init__(self, info: ModelInfo, supervisor: Supervisor, on_closed: Callable[[WorkerModel], None]) -> None:
        self._info = info
        self._supervisor = supervisor
        self._on_closed = on_closed
        self._stats = ModelStats()
        self._asking = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as first loaded."""
        return self._info

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Begin to answer; see `LoadedModel.generate`. Starts the worker again if it has crashed."""
        return self._supervisor.submit(request, sink)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text; see `LoadedModel.tokenize`."""
        return self._ask(Tokenize(text), TokensAre).tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; see `LoadedModel.detokenize`."""
        given: Sequence[object] = tokens  # what users pass may be anything
        for token in given:
            if not isinstance(token, int) or isinstance(token, bool) or not -(2**63) <= token < 2**63:
                raise InvalidOptionError(f"{token!r:.80} is no token of this model")
        return self._ask(Detokenize(tuple(tokens)), TextIs).text

    def render(self, messages: Sequence[Message]) -> RenderedPrompt:
        """Return the exact prompt; see `LoadedModel.render`."""
        return self._ask(Render(tuple(messages)), PromptIs).prompt

    def stats(self) -> ModelStats:
        """Return the figures of the worker that runs now, or the last that were known of it."""
        link = self._supervisor.running
        if link is not None and not self._supervisor.closed:
            try:
                self._stats = _expect(StatsAre, link.ask(Stats())).stats
            except LocalLLMError:
                return self._stats  # the worker has just ended
        elif self._supervisor.last_stats != ModelStats():
            self._stats = self._supervisor.last_stats
        return self._stats

    def worker(self) -> WorkerInfo:
        """Return what there is to see of the worker."""
        return self._supervisor.info()

    def close(self) -> None:
        """End running requests as cancelled, then the worker; a second call does nothing."""
        self._supervisor.close()
        self._on_closed(self)

    def _ask(self, question: Question, kind: type[_F]) -> _F:
        return _expect(kind, self._supervisor.ask(question))


def _expect(kind: type[_F], found: object) -> _F:
    if not isinstance(found, kind):
        raise WorkerProtocolError(f"the worker answered {type(found).__name__} in place of {kind.__name__}")
    return found

"""A model in a worker, as the port wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from localllm.backends.base import GenerateHandle, GenerateRequest, LoadedModel, Sink
from localllm.backends.worker.info import WorkerInfo
from localllm.backends.worker.messages import (
    Detokenize,
    LoadState,
    PromptIs,
    Question,
    Render,
    SaveState,
    StateIs,
    Stats,
    StatsAre,
    TextIs,
    Tokenize,
    TokensAre,
)
from localllm.backends.worker.supervisor import Supervisor
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import InvalidOptionError, LocalLLMError, WorkerProtocolError
from localllm.models.info import ModelInfo
from localllm.saved.state import StateUse
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

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the exact prompt; see `LoadedModel.render`."""
        return self._ask(Render(tuple(messages), tuple(tools)), PromptIs).prompt

    def save_state(self, request: GenerateRequest, path: Path, offset: int) -> StateUse:
        """Have the worker write what is cached of a prompt; see `LoadedModel.save_state`."""
        return self._ask(SaveState(request, path.absolute(), offset), StateIs).use

    def load_state(self, path: Path) -> StateUse:
        """Have the worker take a state; see `LoadedModel.load_state`."""
        return self._ask(LoadState(path.absolute()), StateIs).use

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

    def on_restart(self, tell: Callable[[], object]) -> None:
        """Have `tell` called whenever a new worker has taken over; see `LoadedModel.on_restart`."""
        self._supervisor.on_restart = tell

    def memory_bytes(self) -> int:
        """Return the worker's memory as of its last heartbeat, mapped weights not counted."""
        return self._supervisor.info().memory_bytes

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

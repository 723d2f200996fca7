"""A backend around another one that writes down what was asked of it and what it answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from localllm.backends.base import (
    Backend,
    GenerateHandle,
    GenerateRequest,
    LoadedModel,
    ModelSpec,
    ProgressCallback,
    Sink,
    rendered,
)
from localllm.backends.cassettes.files import read_tapes
from localllm.backends.cassettes.forms import form_of, prompt_key
from localllm.backends.cassettes.recorder import Listener, Recorder, failure_of, folders_of
from localllm.backends.cassettes.replay import Player, ReplayModel
from localllm.backends.cassettes.tape import Interaction, RecordedReply, Tape
from localllm.backends.clock import SystemClock
from localllm.backends.lookup import LLAMA_CPP, in_workers
from localllm.backends.open_models import OpenModels
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import InvalidOptionError, TemplateError
from localllm.models.info import ModelInfo
from localllm.options import Timeouts
from localllm.types import Message


class RecordingBackend(Backend):
    """A backend that records what another one answers, for `ReplayBackend` to play without a model.

    ::

        backend = RecordingBackend(None, "cassettes/sky.json")  # llama.cpp in a process of its own
        with ModelManager(backend) as models:
            ChatSession(models.load("smollm2-135m")).send("Why is the sky blue?", seed=1)

    The file is written when a reply ends and when a model is closed, each time as a whole. Two recordings of one file
    at once spoil nothing: the last one to be written is there in the end.

    Args:
        inner: Who answers: as for `ModelManager`, None or "llama.cpp", "package.module:Class" for another one in a
            process of its own, or an instance, which stays the caller's.
        path: The cassette; what it held is replaced.
        keep: Play what the cassette holds already, and ask and record only the rest.

    Raises:
        InvalidOptionError: An argument of the wrong type, or no such backend.
        BackendUnavailableError: There is no such module.
        CassetteError: With `keep`, the cassette is damaged.
    """

    name = "recording"

    def __init__(self, inner: Backend | str | None, path: str | Path, *, keep: bool = False) -> None:
        self._owns_inner = not isinstance(inner, Backend)
        self._inner = _backend_of(inner)
        # An application is to see the inner one; elsewhere these belong to a class, here each instance has its own.
        vars(self).update(name=self._inner.name, uses_files=self._inner.uses_files)
        tapes: list[Tape] = []
        if keep:
            with contextlib.suppress(FileNotFoundError):
                tapes = read_tapes(Path(path))
        self._recorder = Recorder(Path(path), tapes)
        self._models: OpenModels[_RecordingModel] = OpenModels()
        self._requests: list[GenerateRequest] = []

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        """The replies asked for so far, oldest first; preloads are left out."""
        return tuple(self._requests)

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        """Load a model of the inner backend; see `Backend.load`.

        Raises:
            ClosedError: This backend is closed.
            CassetteError: The cassette cannot be written.
        """
        self._models.check(self.name)
        inner = self._inner.load(spec, on_progress)
        try:
            model = _RecordingModel(inner, spec, self._recorder, self._requests.append)
            self._models.add(model, self.name)
        except BaseException:
            inner.close()
            raise
        return model

    def close(self) -> None:
        """Close every model that is still open, write the cassette, and close an inner backend that was named."""
        models = self._models.close()
        with contextlib.ExitStack() as closing:
            if self._owns_inner:
                closing.callback(self._inner.close)
            for model in models:
                closing.callback(model.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _RecordingModel(LoadedModel):
    """A model that passes everything on, and notes it."""

    def __init__(
        self, inner: LoadedModel, spec: ModelSpec, recorder: Recorder, on_request: Callable[[GenerateRequest], None]
    ) -> None:
        self._inner = inner
        self._recorder = recorder
        self._on_request = on_request
        self._folders = folders_of(spec)
        self._tape = recorder.tape(spec, inner.info)
        # What was there before: played, not asked again.
        self._before = (
            ReplayModel(Player(self._tape, recorder.path), spec, SystemClock()) if self._tape.recorded else None
        )
        self.closed = False

    @property
    def info(self) -> ModelInfo:
        return self._inner.info

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        if request.purpose == "preload":  # says nothing, and may or may not be done before the reply comes
            return self._inner.generate(request, sink)
        asked = form_of(request)
        known = None if self._before is None else self._before.player.take(asked)
        if self._before is not None and known is not None:
            self._on_request(request)
            return self._before.play(request, sink, known)
        index = self._recorder.begin(self._tape)

        def keep(reply: RecordedReply) -> None:
            self._recorder.end(self._tape, index, Interaction(asked, reply))

        handle = self._inner.generate(request, Listener(sink, keep, self._folders))
        self._on_request(request)
        return handle

    def tokenize(self, text: str) -> tuple[int, ...]:
        tokens = self._inner.tokenize(text)
        self._recorder.note(self._tape.tokens, text, tokens)
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        try:
            text = self._inner.detokenize(tokens)
        except InvalidOptionError as exc:
            if all(type(token) is int for token in tokens):  # else there is no telling what it was
                self._recorder.note(self._tape.texts, tuple(tokens), failure_of(exc, self._folders))
            raise
        self._recorder.note(self._tape.texts, tuple(tokens), text)
        return text

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        try:
            prompt = rendered(self._inner, messages, tools)
        except TemplateError as exc:
            self._recorder.note(self._tape.prompts, prompt_key(messages, tools), failure_of(exc, self._folders))
            raise
        self._recorder.note(self._tape.prompts, prompt_key(messages, tools), prompt)
        return prompt

    def stats(self) -> ModelStats:
        return self._inner.stats()

    def on_restart(self, tell: Callable[[], object]) -> None:
        self._inner.on_restart(tell)

    def on_step(self, tell: Callable[[], object]) -> None:
        self._inner.on_step(tell)

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(self._recorder.save)
            closing.callback(self._inner.close)
            if self._before is not None:
                closing.callback(self._before.close)
        self.closed = True


def _backend_of(inner: object) -> Backend:
    match inner:
        case Backend():
            return inner
        case None | str():
            return in_workers(inner or LLAMA_CPP, on_crash="raise", timeouts=Timeouts())()
        case _:
            raise InvalidOptionError(
                f"inner must be a Backend, the name of one, or None for {LLAMA_CPP}; got {inner!r:.80}"
            )

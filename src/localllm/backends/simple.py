"""A base for backends of one's own: say what the model answers, and get everything else that the port asks for.

A backend is then a page long::

    class Shout(SimpleModel):
        def pieces(self, request):
            for word in request.messages[-1].content.split():
                yield " " + word.upper()

    class ShoutBackend(SimpleBackend):
        name = "shout"

        def open(self, spec):
            return Shout(spec)

The base brings the thread (one a model, there only while requests are under way), the queue, cancellation at every
stage, `timeout_s`, stop texts, `max_tokens`, the context window's limit, usage, timings, the one end event, the
translation of errors, and the rules of `close`. `localllm.testing.check_backend` proves it.
"""

from __future__ import annotations

import json
import secrets
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from attrs import evolve

from localllm.backends.base import (
    Backend,
    GenerateRequest,
    LoadedModel,
    LoadProgress,
    ModelSpec,
    ProgressCallback,
    Sink,
)
from localllm.backends.clock import Clock, SystemClock
from localllm.backends.open_models import OpenModels
from localllm.backends.request_queue import RequestQueue
from localllm.backends.simple_request import Finish, Pause, Piece, SimpleRequest
from localllm.backends.words import TURN_BEGIN, TURN_END, Tokenizer, WordTokenizer
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import ClosedError, InvalidOptionError, LoadCancelledError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.types import Message, Usage

__all__ = ["Finish", "Pause", "Piece", "SimpleBackend", "SimpleModel"]

DEFAULT_N_CTX = 131_072
"""Tokens of the context window where neither the config nor the model says otherwise."""


class SimpleModel(LoadedModel):
    """A loaded model that answers by `pieces`.

    To override besides `pieces`: `prompt` and `open_prompt`, for a chat format of its own, and `free`. Every hook but
    `accept` is called on the model's one thread, so that a model needs no locks.

    Args:
        spec: What was to be loaded. `config.n_ctx` and `config.max_queue` hold for any model; `config.n_parallel`
            replies are answered piece by piece in turn, one after the other by default.
        info: The model's facts; by default made from `spec`. A `model_hash` of its own goes with a tokenizer of its
            own, whose ids mean the same whenever the model is loaded.
        tokenizer: What counts tokens; a `WordTokenizer` by default.
        clock: Tells when replies time out and pauses end; tests inject a `localllm.testing.ManualClock`.
    """

    completes: ClassVar[bool] = False
    """Whether `pieces` goes on with the last message, too, for a request whose purpose is "complete"; if not, such a
    request ends with UnsupportedError."""

    def __init__(
        self,
        spec: ModelSpec,
        info: ModelInfo | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.tokenizer: Tokenizer = WordTokenizer() if tokenizer is None else tokenizer
        self.clock: Clock = SystemClock() if clock is None else clock
        self._info = info or ModelInfo(
            name=spec.ref,
            context_length=spec.config.n_ctx or DEFAULT_N_CTX,
            vocab_size=self.tokenizer.size,
            template_source="builtin",
            model_hash=secrets.token_hex(16),  # words get ids as they come by, so they mean nothing to the next load
            path=spec.path,
        )
        self._info = evolve(
            self._info,
            n_ctx=spec.config.n_ctx or self._info.n_ctx or DEFAULT_N_CTX,
            n_parallel=spec.config.n_parallel or 1,
            max_queue=spec.config.max_queue,
        )
        self._stats = ModelStats()
        self._freeing = threading.Lock()
        self._freed = False
        self._queue: RequestQueue[SimpleRequest] = RequestQueue(
            self.clock,
            name=f"localllm-{self._info.name}"[:64],
            n_parallel=self._info.n_parallel,
            max_queue=self._info.max_queue,
            on_closed=self._free_once,
        )

    @abstractmethod
    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        """Return the reply to `request` as it is made, normally as a generator.

        It is asked for a piece when the one before is delivered, and closed when the request ends early: a cancel and
        a time-out take effect between two pieces. A long computation yields "" now and then. `request.options` may be
        ignored: `max_tokens`, `stop` and `timeout_s` are seen to. An exception ends the request with it, if it is a
        LocalLLMError, else with a BackendError that it is the cause of.

        Args:
            request: What was asked; never a preload, and a completion only if `completes`.

        Returns:
            Text as str, or as TextDelta for a thought; ToolCall; Pause to wait; Finish to end in another way than by
            the last piece.
        """

    def prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> RenderedPrompt:
        """Return the prompt for `messages`: ChatML, unless a model overrides it.

        A message that this model generated is read as the very tokens that it generated.

        Args:
            messages: The conversation.
            add_generation_prompt: Whether to begin the model's turn at its end; not so for a preload.
        """
        text, tokens = "", list[int]()
        for message in messages:
            content = _content(message)
            text += f"{TURN_BEGIN}{message.role}\n{content}{TURN_END}\n"
            tokens += self._beginning(message.role)
            tokens += self._generated(message, content) or self.tokenizer.encode(content)
            tokens += self.tokenizer.encode_control(TURN_END) + self.tokenizer.encode("\n")
        if add_generation_prompt:
            text += f"{TURN_BEGIN}assistant\n"
            tokens += self._beginning("assistant")
        return RenderedPrompt(text, tuple(tokens))

    def open_prompt(self, messages: Sequence[Message]) -> RenderedPrompt:
        """Return the prompt for `messages` that ends with the last one's text, for that to be gone on with.

        It is the beginning of what `prompt` returns for them.
        """
        before, last = self.prompt(messages[:-1], add_generation_prompt=False), messages[-1]
        text = f"{before.text}{TURN_BEGIN}{last.role}\n{last.content}"
        tokens = (*before.tokens, *self._beginning(last.role), *self.tokenizer.encode(last.content))
        return RenderedPrompt(text, tokens)

    def accept(self, request: GenerateRequest) -> Callable[[], Iterable[Piece]]:
        """Return what makes the reply, to be called on the model's thread.

        Called by `generate`, in the order in which replies are asked for; it returns at once and never raises.
        """
        return lambda: self.pieces(request)

    def cached_tokens(self, prompt: tuple[int, ...]) -> int:
        """Return how many of the prompt's first tokens need not be computed again, for `Usage`; 0 without a cache."""
        return 0

    def keep(self, tokens: tuple[int, ...]) -> None:
        """Learn that `tokens`, a prompt with or without its reply, were computed; for models with a cache."""

    def free(self) -> None:
        """Free what the model holds; called once, by `close`, after the last request has ended."""

    def end_all(self, make_error: Callable[[], LocalLLMError]) -> None:
        """End every request under way with an error of its own, as a crash does; only from within `pieces`."""
        self._queue.end_all(make_error)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._queue.closed

    @property
    def info(self) -> ModelInfo:
        """The model's facts."""
        return self._info

    def generate(self, request: GenerateRequest, sink: Sink) -> SimpleRequest:
        """Begin to answer `request`; see `LoadedModel.generate`."""
        submitted_s = self.clock.now()

        def make(accepted: bool) -> SimpleRequest:
            answered = accepted and (request.purpose == "reply" or (request.purpose == "complete" and self.completes))
            return SimpleRequest(
                request=request,
                sink=sink,
                model=self,
                pieces=self.accept(request) if answered else tuple,
                submitted_s=submitted_s,
                accepted=accepted,
                on_cancel=self._queue.cancel,
            )

        return self._queue.submit(make)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text; see `LoadedModel.tokenize`."""
        self._check_open()
        return self.tokenizer.encode(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`; see `LoadedModel.detokenize`."""
        self._check_open()
        return self.tokenizer.decode(tokens)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the exact prompt for `messages`, which shows no tools; see `LoadedModel.render`."""
        self._check_open()
        return self.prompt(messages)

    def stats(self) -> ModelStats:
        """Return the figures so far; still answers after `close`."""
        return evolve(self._stats, running=self._queue.running, waiting=self._queue.waiting)

    def close(self) -> None:
        """End all requests as cancelled, wait for the thread, then `free`; a second call does nothing.

        Called on the model's own thread, from a sink, it cannot wait: the thread does the rest.
        """
        self._queue.close()

    def retire(self, request: SimpleRequest, usage: Usage) -> None:
        """Count `request` as ended; called by the request itself, before its end is told."""
        stats = self._stats
        self._stats = evolve(
            stats,
            finished=stats.finished + 1,
            prompt_tokens=stats.prompt_tokens + usage.prompt_tokens,
            cached_tokens=stats.cached_tokens + usage.cached_tokens,
            completion_tokens=stats.completion_tokens + usage.completion_tokens,
            cache_hits=stats.cache_hits + (usage.cached_tokens > 0),
        )
        self._queue.retire(request)

    def named(self, backend: str) -> None:
        """Put the backend's name into `info`; called by `SimpleBackend.load`."""
        self._info = evolve(self._info, backend=backend, architecture=self._info.architecture or backend)

    def _generated(self, message: Message, content: str) -> tuple[int, ...]:
        """Return the tokens that this model generated for `message`; none if it is another's, or was edited."""
        ids = message.token_ids
        if ids is None or ids.model_hash != self._info.model_hash:
            return ()
        try:
            return ids.tokens if self.tokenizer.decode(ids.tokens) == content else ()
        except InvalidOptionError:  # the hash was written by hand: such ids are not ours
            return ()

    def _beginning(self, role: str) -> tuple[int, ...]:
        return (*self.tokenizer.encode_control(TURN_BEGIN), *self.tokenizer.encode(f"{role}\n"))

    def _free_once(self) -> None:
        with self._freeing:
            if not self._freed:
                self._freed = True
                self.free()

    def _check_open(self) -> None:
        if self._queue.closed:
            raise ClosedError(f"the model {self._info.name!r} is closed; load it again")


class SimpleBackend(Backend):
    """A backend that loads `SimpleModel`s: a subclass has a `name` and says how to `open` one."""

    def __init__(self) -> None:
        self._models: OpenModels[SimpleModel] = OpenModels()

    @abstractmethod
    def open(self, spec: ModelSpec) -> SimpleModel:
        """Return the model that `spec` describes, ready to answer.

        Raises:
            ModelLoadError: It cannot be loaded.
        """

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> SimpleModel:
        """Load a model; see `Backend.load`.

        Raises:
            ClosedError: The backend is closed.
            LoadCancelledError: `on_progress` returned False.
        """
        self._models.check(self.name)
        _report(spec, on_progress, 0.0)
        model = self.open(spec)
        try:
            model.named(self.name)
            _report(spec, on_progress, 1.0)
            self._models.add(model, self.name)
        except BaseException:
            model.close()
            raise
        return model

    def close(self) -> None:
        """Close every model that is still open; a second call does nothing."""
        for model in self._models.close():
            model.close()


def _report(spec: ModelSpec, on_progress: ProgressCallback | None, fraction: float) -> None:
    if on_progress is not None and on_progress(LoadProgress("loading", fraction)) is False:
        raise LoadCancelledError(f"the load of {spec.ref!r} was cancelled by its progress function")


def _content(message: Message) -> str:
    """Return what a message says, its tool calls as lines of JSON."""
    calls = [json.dumps(call.to_dict(), ensure_ascii=False) for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content or not calls else calls)

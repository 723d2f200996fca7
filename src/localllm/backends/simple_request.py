"""One request to a simple model: from its queue to its one end, step by step, on the model's thread."""

from __future__ import annotations

import json
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, TypeAlias

from attrs import define, field, frozen

from localllm._json import check_text
from localllm.backends.answer import Answer
from localllm.backends.base import GenerateRequest, Sink
from localllm.backends.clock import Clock, timings_of
from localllm.backends.words import Tokenizer
from localllm.chat.rendered import RenderedPrompt
from localllm.errors import BackendError, ContextOverflowError, LocalLLMError, UnsupportedError
from localllm.models.info import ModelInfo
from localllm.types import (
    BackendEvent,
    FinishReason,
    GenerationEnded,
    Message,
    PromptProgress,
    TextDelta,
    Timings,
    TokenIds,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    Usage,
)

_log = logging.getLogger("localllm.backends")


@frozen
class Pause:
    """A model puts this out to wait without holding its thread: others go on, and a cancel takes effect.

    Args:
        until_s: When to go on, by the model's clock.
    """

    until_s: float


@frozen
class Finish:
    """A model puts this out to end its reply with a reason of its own.

    Args:
        reason: "stop" is what the end of the pieces means too; "length" says that the reply was cut off.
    """

    reason: Literal["stop", "length"]


Piece: TypeAlias = "str | TextDelta | ToolCall | Pause | Finish"
"""What a simple model's reply consists of. An empty str is a chance to be cancelled."""

_END = Finish("stop")


class Answering(Protocol):
    """What a request needs of its model; called on the model's thread only."""

    @property
    @abstractmethod
    def clock(self) -> Clock:
        """The clock of time-outs, pauses and timings."""

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """What tokens are counted in."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """The model's facts: its hash and context window."""

    @abstractmethod
    def prompt(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> RenderedPrompt:
        """Return the prompt for `messages`, at its end the beginning of a reply if `add_generation_prompt`."""

    @abstractmethod
    def open_prompt(self, messages: tuple[Message, ...]) -> RenderedPrompt:
        """Return the prompt for `messages` up to the end of the last one's text."""

    @property
    @abstractmethod
    def completes(self) -> bool:
        """Whether it goes on with a user's text, too."""

    @abstractmethod
    def cached_tokens(self, prompt: tuple[int, ...]) -> int:
        """Return how many tokens of `prompt` need not be computed."""

    @abstractmethod
    def keep(self, tokens: tuple[int, ...]) -> None:
        """Learn that `tokens` are computed."""

    @abstractmethod
    def retire(self, request: SimpleRequest, usage: Usage) -> None:
        """Count `request` as ended; called once, before its end is told."""


@define(eq=False, kw_only=True)
class SimpleRequest:
    """A request and its caller's handle. Everything but `cancel` runs on the model's thread.

    Args:
        request: What was asked.
        sink: Where its events go.
        model: Who answers.
        pieces: Makes the reply.
        submitted_s: When it was asked, by the model's clock.
        accepted: Whether the queue had room for it.
        on_cancel: Tells the queue that it is to be ended; takes no lock.
    """

    request: GenerateRequest
    _sink: Sink = field(alias="sink")
    _model: Answering = field(alias="model")
    _pieces: Callable[[], Iterable[Piece]] = field(alias="pieces")
    submitted_s: float
    accepted: bool
    _on_cancel: Callable[[SimpleRequest], None] = field(alias="on_cancel")
    deadline_s: float = field(init=False)
    background: bool = field(init=False)
    ended: bool = field(default=False, init=False)
    due_s: float = field(default=0.0, init=False)  # when its next step is to be done
    _started_s: float | None = field(default=None, init=False)
    _first_s: float | None = field(default=None, init=False)
    _prompt: tuple[int, ...] = field(default=(), init=False)
    _cached: int = field(default=0, init=False)
    _answer: Answer | None = field(default=None, init=False)
    _outputs: Iterator[Piece] | None = field(default=None, init=False)
    _calls: list[ToolCall] = field(factory=list, init=False)
    _stepping: bool = field(default=False, init=False)
    _paused: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        timeout_s = self.request.options.timeout_s
        self.deadline_s = math.inf if timeout_s is None else self.submitted_s + timeout_s
        self.background = self.request.purpose == "complete"

    def cancel(self) -> None:
        """Ask for the request to end as soon as it can. Safe in a finalizer: takes no lock."""
        if not self.ended:
            self._on_cancel(self)

    def start(self) -> None:
        """Read the prompt; a preload is at its end then."""
        self._started_s = self.due_s = self._model.clock.now()
        self._failing_ends_it(self._begin)

    def step(self) -> None:
        """Take the model's next piece and deliver it."""
        self._failing_ends_it(self._advance)

    def end(self, reason: FinishReason, error: LocalLLMError | None = None) -> None:
        """Deliver what was held back, then the end; a second call does nothing."""
        if self.ended:
            return
        self.ended = True
        self._close_outputs()
        answer = self._answer
        if answer is not None:
            self._deliver(answer.flush())
            reason = "stop" if answer.stopped and reason == "length" else reason
        tokens = () if answer is None else tuple(answer.tokens)
        if self._prompt:
            self._model.keep(self._prompt + tokens)
        thought_tokens = 0 if answer is None else len(tokens) - len(answer.text_tokens)
        usage = Usage(len(self._prompt), self._cached, len(tokens), thought_tokens)
        remembered = None
        if answer is not None and answer.text_tokens and not answer.stopped:
            remembered = TokenIds(self._model.info.model_hash, tuple(answer.text_tokens))
        self._model.retire(self, usage)
        calls = tuple(self._calls) if reason == "tool_calls" else ()
        self._push(GenerationEnded(reason, usage, self._timings(len(tokens)), remembered, calls, error))

    def _failing_ends_it(self, action: Callable[[], None]) -> None:
        try:
            _translated(action)
        except LocalLLMError as exc:
            self.end("error", exc)

    def _begin(self) -> None:
        self._read_prompt()
        if self.request.purpose == "preload":
            self.end("length")
            return
        options, room = self.request.options, self._model.info.n_ctx - len(self._prompt)
        self._answer = Answer(self._model.tokenizer, options.stop, min(options.max_tokens or room, room))
        self._outputs = iter(self._pieces())

    def _advance(self) -> None:
        if self._outputs is None or self._answer is None:
            return
        began_s = self._model.clock.now()
        self._stepping = True
        try:
            piece = next(self._outputs, _END)
        finally:
            self._stepping = False
        # What follows a pause happens when the pause ends, even if the thread wakes late: a clock moved by hand may
        # have jumped over that moment and over others, which must all come in their order.
        took_s = self._model.clock.now() - began_s
        self.due_s = (self.due_s if self._paused else began_s) + took_s
        self._paused = False
        if not self.ended:  # the model may just have ended all its requests
            self._take(piece, self._answer)

    def _read_prompt(self) -> None:
        model = self._model
        rendered = self._rendered()
        self._prompt, total = rendered.tokens, len(rendered.tokens)
        if total >= model.info.n_ctx:
            raise ContextOverflowError(
                f"the prompt has {total} tokens and the context window holds {model.info.n_ctx}, reply included; "
                "shorten the conversation, or load the model with a larger ModelConfig(n_ctx=...)",
                prompt_tokens=total,
                context_tokens=model.info.n_ctx,
            )
        self._cached = max(0, min(model.cached_tokens(self._prompt), total - 1))  # the last one gives the first logits
        model.keep(self._prompt)
        self._push(PromptProgress(total, self._cached, total))

    def _rendered(self) -> RenderedPrompt:
        messages, purpose = self.request.messages, self.request.purpose
        if purpose != "complete":
            return self._model.prompt(messages, add_generation_prompt=purpose == "reply")
        if not self._model.completes:
            raise UnsupportedError(
                f"the backend {self._model.info.backend!r} cannot go on with a user's text: it has no complete_prompt"
            )
        return self._model.open_prompt(messages)

    def _take(self, piece: Piece, answer: Answer) -> None:
        match piece:
            case str():
                self._take_text(TextDelta(check_text(piece, "a piece of the reply")), answer)
            case TextDelta():
                check_text(piece.text, "a piece of the reply")
                self._take_text(piece, answer)
            case ToolCall():
                self._take_call(piece, answer)
            case Pause():
                self.due_s, self._paused = piece.until_s, True
            case Finish():
                self.end("tool_calls" if self._calls and piece.reason == "stop" else piece.reason)
            case _:
                raise TypeError(f"a piece must be a str, TextDelta, ToolCall, Pause or Finish, not {piece!r:.80}")

    def _take_text(self, delta: TextDelta, answer: Answer) -> None:
        deltas = answer.push(delta.text, delta.segment)
        if self._first_s is None and answer.tokens:
            self._first_s = self._model.clock.now()
        self._deliver(deltas)
        if answer.finish is not None:
            self.end(answer.finish)

    def _take_call(self, call: ToolCall, answer: Answer) -> None:
        """Tell a call, whole as it is, after the text before it."""
        self._deliver(answer.flush())
        index = len(self._calls)
        self._calls.append(call)
        self._push(ToolCallStarted(index, call.id, call.name))
        self._push(ToolCallDelta(index, json.dumps(call.arguments, ensure_ascii=False, default=dict)))
        self._push(ToolCallEnded(index, call))

    def _deliver(self, deltas: list[TextDelta]) -> None:
        for delta in deltas:
            self._push(delta)

    def _push(self, event: BackendEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001  # somebody else's code, whose failure must not end the others' requests
            _log.exception("the sink of a request raised; the request is cancelled")
            self.cancel()

    def _close_outputs(self) -> None:
        """Let the model's generator clean up, unless it is what ended the request."""
        close = getattr(self._outputs, "close", None)
        if callable(close) and not self._stepping:
            try:
                close()
            except Exception:  # noqa: BLE001  # the reply is over, so there is nobody else to tell
                _log.exception("the model failed while it cleaned up after a reply")
        self._outputs = None

    def _timings(self, generated: int) -> Timings:
        return timings_of(
            submitted_s=self.submitted_s,
            started_s=self._started_s,
            first_s=self._first_s,
            ended_s=self._model.clock.now(),
            generated=generated,
        )


def _translated(action: Callable[[], None]) -> None:
    """Do `action`, which runs somebody's model; whatever it raises becomes ours."""
    try:
        action()
    except LocalLLMError:
        raise
    except BaseException as exc:  # SystemExit and CancelledError too: on this thread they would end nothing but it
        raise BackendError(f"the model failed: {type(exc).__name__}: {exc}") from exc

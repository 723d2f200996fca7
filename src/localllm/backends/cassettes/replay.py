"""A backend that plays a cassette: the replies of a model, without the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from attrs import evolve

from localllm._json import check_text
from localllm.backends.base import (
    Backend,
    GenerateRequest,
    LoadedModel,
    LoadProgress,
    ModelSpec,
    ProgressCallback,
    Sink,
)
from localllm.backends.cassettes.files import read_tapes
from localllm.backends.cassettes.forms import Form, config_form, form_of, key_of, prompt_key, ref_form
from localllm.backends.cassettes.misses import no_cassette, no_model, no_note, no_request
from localllm.backends.cassettes.played import PlayedRequest
from localllm.backends.cassettes.tape import RecordedReply, Tape, tape_of
from localllm.backends.clock import Clock, SystemClock
from localllm.backends.open_models import OpenModels
from localllm.backends.request_queue import RequestQueue
from localllm.backends.worker.failures import to_error
from localllm.backends.worker.messages import Failure
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import CassetteError, ClosedError, LoadCancelledError
from localllm.models.info import ModelInfo
from localllm.types import Message, Usage

_ADVICE = "to record, put RecordingBackend(None, path) in the place of ReplayBackend(path)"
_NO_LIMIT = 2**31 - 1

_T = TypeVar("_T")


class ReplayBackend(Backend):
    """A backend that plays what `RecordingBackend` has recorded, and nothing else.

    ::

        with ModelManager(ReplayBackend("cassettes/sky.json")) as models:
            ChatSession(models.load("smollm2-135m")).send("Why is the sky blue?", seed=1)

    Replies to the same request are played in the order in which they were recorded, each once. Replies come word by
    word and at once. A request that was not recorded ends with CassetteError, which shows how it differs from the
    nearest one that was. A reply that was cancelled when it was recorded waits at its end for being cancelled again.

    Args:
        path: The cassette. It is read by the first `load`.
        repeat: Play the last reply to a request again and again, once all of them were played.
        advice: What to do about something that was not recorded; a part of the errors' text.
        clock: What time-outs and timings go by, as for `FakeBackend`.
    """

    name = "replay"

    def __init__(
        self, path: str | Path, *, repeat: bool = False, advice: str = _ADVICE, clock: Clock | None = None
    ) -> None:
        self._path = Path(path)
        self._repeat = repeat
        self._advice = advice
        self._clock: Clock = SystemClock() if clock is None else clock
        self._lock = Lock()
        self._players: list[Player] | None = None
        self._models: OpenModels[ReplayModel] = OpenModels()
        self._requests: list[GenerateRequest] = []

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        """The replies asked for so far, oldest first; preloads are left out."""
        return tuple(self._requests)

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> ReplayModel:
        """Return a model that plays what was recorded of the one that `spec` names; see `Backend.load`.

        Raises:
            CassetteError: There is no cassette, it is damaged or of a newer version, or it holds no such model.
            ClosedError: This backend is closed.
        """
        self._models.check(self.name)
        for fraction in (0.0, 1.0):
            if on_progress is not None and on_progress(LoadProgress("loading", fraction)) is False:
                raise LoadCancelledError(f"the load of {spec.ref!r} was cancelled by its progress function")
        with self._lock:
            player = self._player(spec)
        model = ReplayModel(player, spec, self._clock, self._requests.append)
        try:
            self._models.add(model, self.name)
        except ClosedError:
            model.close()
            raise
        return model

    def close(self) -> None:
        """Close every model that is still open; a second call does nothing."""
        for model in self._models.close():
            model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _player(self, spec: ModelSpec) -> Player:
        """Return what plays the model; one player for all who load it, so that each reply is played once."""
        if self._players is None:
            try:
                tapes = read_tapes(self._path)
            except FileNotFoundError:
                raise no_cassette(self._path, self._advice) from None
            self._players = [Player(tape, self._path, repeat=self._repeat, advice=self._advice) for tape in tapes]
        tapes = [player.tape for player in self._players]
        found = tape_of(tapes, ref_form(spec), config_form(spec.config))
        if found is None:
            raise no_model(self._path, spec, tapes, self._advice)
        return self._players[tapes.index(found)]


class Player:
    """Hands out the recorded replies of one model, each once. Safe to use from any thread.

    Args:
        tape: What was recorded.
        path: Where, for error messages.
        repeat: Whether to hand out the last reply to a request again and again.
        advice: What to do about a miss.
    """

    def __init__(self, tape: Tape, path: Path, *, repeat: bool = False, advice: str = "") -> None:
        self.tape = tape
        self._path = path
        self._repeat = repeat
        self._advice = advice
        self._lock = Lock()
        self._left: dict[str, deque[RecordedReply]] = {}
        for one in tape.recorded:
            self._left.setdefault(one.key, deque()).append(one.reply)

    def take(self, asked: Form) -> RecordedReply | None:
        """Return the next reply to a request; None if there is none, or none any more."""
        with self._lock:
            left = self._left.get(key_of(asked))
            if not left:
                return None
            return left[0] if self._repeat and len(left) == 1 else left.popleft()

    def miss(self, asked: Form) -> CassetteError:
        """Return what is to be said of a request to which there is no reply; looks for the nearest that has one."""
        return no_request(self._path, asked, self.tape.recorded, self._advice)

    def no_note(self, what: str) -> CassetteError:
        """Return what is to be said of a small answer that was not recorded."""
        return no_note(self._path, what, self._advice)


class ReplayModel(LoadedModel):
    """A model that plays recorded replies.

    Args:
        player: Hands them out.
        spec: What was to be loaded.
        clock: What time-outs and timings go by.
        on_request: Told each request for a reply.
    """

    def __init__(
        self,
        player: Player,
        spec: ModelSpec,
        clock: Clock,
        on_request: Callable[[GenerateRequest], None] | None = None,
    ) -> None:
        self.player = player
        self._on_request = on_request
        self._clock = clock
        self._stats = ModelStats()
        self._info = evolve(
            player.tape.info,
            backend=ReplayBackend.name,
            n_parallel=spec.config.n_parallel or 1,
            max_queue=spec.config.max_queue,
        )
        # All at once: one that waits for being cancelled must not keep the others from being played.
        self._queue: RequestQueue[PlayedRequest] = RequestQueue(
            self._clock,
            name=f"localllm-replay-{self._info.name}"[:64],
            n_parallel=_NO_LIMIT,
            max_queue=0,
            on_closed=lambda: None,
        )

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._queue.closed

    @property
    def info(self) -> ModelInfo:
        """What was recorded of the model's facts."""
        return self._info

    def generate(self, request: GenerateRequest, sink: Sink) -> PlayedRequest:
        """Begin to play the reply to `request`; see `LoadedModel.generate`."""
        if request.purpose == "preload":
            return self.play(request, sink, RecordedReply(finish_reason="length"))
        asked = form_of(request)
        played = self.play(request, sink, self.player.take(asked) or (lambda: self.player.miss(asked)))
        if self._on_request is not None:
            self._on_request(request)
        return played

    def play(
        self, request: GenerateRequest, sink: Sink, reply: RecordedReply | Callable[[], CassetteError]
    ) -> PlayedRequest:
        """Begin to play this reply, or to fail with this error."""
        submitted_s = self._clock.now()

        def make(accepted: bool) -> PlayedRequest:
            return PlayedRequest(
                request=request,
                sink=sink,
                reply=reply,
                clock=self._clock,
                submitted_s=submitted_s,
                on_cancel=self._queue.cancel,
                on_end=self._retire,
            )

        return self._queue.submit(make)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, if they were recorded; see `LoadedModel.tokenize`."""
        self._check_open()
        tokens = self.player.tape.tokens.get(check_text(text, "the text"))
        if tokens is None:
            raise self.player.no_note(f"tokenize({text!r:.80})")
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, if it was recorded; see `LoadedModel.detokenize`."""
        self._check_open()
        text = self.player.tape.texts.get(tuple(tokens))
        if text is None:
            raise self.player.no_note(f"detokenize({list(tokens)!r:.80})")
        return _value(text)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the prompt for messages, if it was recorded; see `LoadedModel.render`."""
        self._check_open()
        prompt = self.player.tape.prompts.get(prompt_key(messages, tools))
        if prompt is None:
            last = f"{messages[-1].role}: {messages[-1].content!r:.80}" if messages else "none"
            raise self.player.no_note(f"render of {len(messages)} messages, the last {last},")
        return _value(prompt)

    def stats(self) -> ModelStats:
        """Return the figures so far; still answers after `close`."""
        return evolve(self._stats, running=self._queue.running, waiting=self._queue.waiting)

    def close(self) -> None:
        """End all requests as cancelled; a second call does nothing."""
        self._queue.close()

    def _retire(self, request: PlayedRequest, usage: Usage) -> None:
        stats = self._stats
        self._stats = evolve(
            stats,
            finished=stats.finished + 1,
            prompt_tokens=stats.prompt_tokens + usage.prompt_tokens,
            completion_tokens=stats.completion_tokens + usage.completion_tokens,
        )
        self._queue.retire(request)

    def _check_open(self) -> None:
        if self._queue.closed:
            raise ClosedError(f"the model {self._info.name!r} is closed; load it again")


def _value(found: _T | Failure) -> _T:
    if isinstance(found, Failure):
        raise to_error(found)
    return found

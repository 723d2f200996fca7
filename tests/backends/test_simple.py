"""SimpleModel and SimpleBackend: a backend of one's own says what it answers, and the base does the rest."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Unpack, cast

import pytest
from examples import custom_backend

from localllm import ChatSession, ModelManager
from localllm.backends.base import GenerateRequest, LoadedModel, ModelSpec
from localllm.backends.clock import Clock
from localllm.backends.simple import Finish, Pause, Piece, SimpleBackend, SimpleModel
from localllm.backends.words import Tokenizer
from localllm.chat.rendered import RenderedPrompt
from localllm.errors import (
    BackendError,
    ClosedError,
    InvalidOptionError,
    InvalidPromptError,
    LoadCancelledError,
    ModelLoadError,
    TemplateError,
)
from localllm.models.info import ModelInfo
from localllm.options import GenerationOptions, ModelConfig, RequestOptions
from localllm.testing import EventLog, ManualClock, collect
from localllm.types import GenerationEnded, Message, TextDelta, ToolCall

SPEC = ModelSpec(ref="mine")


class Says(SimpleModel):
    """Answers with what a test gives it."""

    def __init__(
        self, pieces: Callable[[], Iterable[Piece]], spec: ModelSpec = SPEC, *, clock: Clock | None = None
    ) -> None:
        super().__init__(spec, clock=clock)
        self._say = pieces
        self.freed = 0

    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        return self._say()

    def free(self) -> None:
        self.freed += 1


def asking(text: str = "Hi", **options: Unpack[GenerationOptions]) -> GenerateRequest:
    """A request with one user message."""
    return GenerateRequest(messages=(Message.user(text),), options=RequestOptions(**options))


def ended(*pieces: Piece) -> GenerationEnded:
    """How a reply of `pieces` ends."""
    return collect(Says(lambda: pieces), asking()).end


def test_pieces_may_be_any_iterable() -> None:
    assert collect(Says(lambda: ["a ", "", "b"]), asking()).text == "a b"


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", Message.user("x")], ids=repr)
def test_a_piece_of_the_wrong_type_is_named_in_the_error(wrong: object) -> None:
    error = ended("fine so far", cast("str", wrong)).error
    assert isinstance(error, BackendError)
    assert repr(wrong)[:20] in error.message


def test_a_piece_that_is_no_text_is_an_error() -> None:
    assert isinstance(ended("\ud800").error, InvalidPromptError)
    assert isinstance(ended(TextDelta("\ud800", "thought")).error, InvalidPromptError)


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_whatever_a_model_raises_ends_its_request_only(failure: BaseException) -> None:
    failing = [True]

    def pieces() -> Iterator[Piece]:
        yield "so far"
        if failing.pop():
            raise failure

    model = Says(pieces)
    reply = collect(model, asking())
    assert (reply.text, reply.end.finish_reason) == ("so far", "error")
    assert isinstance(reply.end.error, BackendError)
    assert reply.end.error.__cause__ is failure
    failing.append(False)
    assert collect(model, asking()).end.finish_reason == "stop"


def test_our_own_errors_pass_as_they_are() -> None:
    error = TemplateError("no system messages, please")

    def pieces() -> Iterator[Piece]:
        raise error
        yield ""

    assert collect(Says(pieces), asking()).end.error is error


def test_a_model_may_end_in_its_own_way() -> None:
    assert ended("a", Finish("length"), "never").finish_reason == "length"
    assert ended("a", Finish("stop"), "never").finish_reason == "stop"
    call = ToolCall("look")
    assert ended(call).tool_calls == (call,)
    assert ended(call, Finish("length")).tool_calls == ()


def test_a_cancel_takes_effect_between_two_pieces_and_the_generator_is_closed() -> None:
    computing, may_go_on = threading.Event(), threading.Event()
    seen: list[str] = []

    def pieces() -> Iterator[Piece]:
        try:
            yield "first "
            computing.set()
            may_go_on.wait(10)
            yield "second "
            seen.append("asked for a third piece")
        finally:
            seen.append("closed")

    model, log = Says(pieces), EventLog()
    cancel = log.start(model, asking())
    assert computing.wait(10)
    cancel()
    may_go_on.set()
    assert log.wait().finish_reason == "cancelled"
    assert seen == ["closed"]
    assert log.text in ("first ", "first second ")


def test_a_generator_that_fails_to_clean_up_is_logged_and_the_reply_ends_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def pieces() -> Iterator[Piece]:
        try:
            for _ in range(100):
                yield " on"
        finally:
            raise OSError("the disk is gone")

    reply = collect(Says(pieces), asking(max_tokens=3))
    assert (reply.text, reply.end.finish_reason) == (" on on on", "length")
    assert "the disk is gone" in caplog.text


def test_a_pause_lets_other_replies_go_on() -> None:
    clock = ManualClock()
    model = Says(lambda: [Pause(5.0), "late"], ModelSpec(ref="x", config=ModelConfig(n_parallel=2)), clock=clock)
    other, log = EventLog(), EventLog()
    log.start(model, asking())
    cancel = other.start(model, asking())
    clock.wait_until_blocked()
    cancel()
    assert other.wait().finish_reason == "cancelled"
    clock.wait_until_blocked()
    clock.advance(5)
    assert log.wait().timings.first_token_s == 5


def test_time_outs_that_never_came_do_not_pile_up_behind_a_long_reply() -> None:
    clock = ManualClock()
    spec = ModelSpec(ref="x", config=ModelConfig(n_parallel=2))

    def scripts() -> Iterator[list[Piece]]:
        yield [Pause(5000.0)]
        while True:
            yield ["done"]

    script = scripts()
    model = Says(lambda: next(script), spec, clock=clock)
    long = EventLog()
    long.start(model, asking(timeout_s=3000))
    for _ in range(200):
        assert collect(model, asking(timeout_s=1000)).end.finish_reason == "stop"
    clock.wait_until_blocked()
    clock.advance(3000)
    assert long.wait().finish_reason == "timeout"


def test_free_is_called_once_after_the_last_request_has_ended() -> None:
    model = Says(lambda: [Pause(1e9)], clock=ManualClock())
    log = EventLog(lambda event: freed.append(model.freed))
    freed: list[int] = []
    log.start(model, asking())
    model.close()
    model.close()
    assert model.freed == 1
    assert set(freed) == {0}


def test_a_model_may_be_closed_from_inside_a_sink() -> None:
    model = Says(lambda: ["a "] * 1000)
    log = EventLog(lambda event: model.close() if isinstance(event, TextDelta) else None)
    log.start(model, asking())
    assert log.wait().finish_reason == "cancelled"
    model.close()
    assert model.freed == 1


def test_a_sink_that_raises_loses_its_reply_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: object) -> None:
        raise ZeroDivisionError("a careless sink")

    model = Says(lambda: ["a "] * 50)
    model.generate(asking(), broken)
    assert collect(model, asking()).end.finish_reason == "stop"
    assert "a careless sink" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * len(caplog.records)
    model.close()
    assert model.stats().finished == 2


def test_a_cancel_from_a_finalizer_needs_no_lock() -> None:
    """The finalizer runs while this very thread is inside `generate`, under the queue's lock."""
    clock = ManualClock()

    class Caller:
        def __init__(self, cancel: Callable[[], None]) -> None:
            self.cancel = cancel

        def __del__(self) -> None:
            self.cancel()

    class Collecting(Says):
        def accept(self, request: GenerateRequest) -> Callable[[], Iterable[Piece]]:
            dropped.clear()
            return super().accept(request)

    model = Collecting(lambda: [Pause(10.0), "x"], clock=clock)
    dropped: list[Caller] = []
    first, second = EventLog(), EventLog()
    dropped.append(Caller(first.start(model, asking())))
    second.start(model, asking())
    assert first.wait().finish_reason == "cancelled"
    clock.wait_until_blocked()
    clock.advance(10)
    assert second.wait().finish_reason == "stop"


def test_a_model_that_is_forgotten_without_close_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    model = Says(lambda: ["a"])
    collect(model, asking())
    (thread,) = set(threading.enumerate()) - before
    alive = weakref.ref(model)
    del model
    thread.join(10)
    assert not thread.is_alive()
    gc.collect()
    assert alive() is None


class LetterTokenizer(Tokenizer):
    """A token for each character: as different from words as can be."""

    @property
    def size(self) -> int:
        return 0x110000

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def decode(self, tokens: Sequence[int]) -> str:
        try:
            return "".join(map(chr, tokens))
        except (ValueError, OverflowError) as exc:
            raise InvalidOptionError(f"no such token in {tokens!r:.80}") from exc


class Letters(SimpleModel):
    """A model with a tokenizer and a chat format of its own."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec, ModelInfo(name="letters", model_hash="letters-1"), tokenizer=LetterTokenizer())

    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        return ["abc", "def"]

    def prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> RenderedPrompt:
        text = "".join(f"{message.role}: {message.content}\n" for message in messages)
        return RenderedPrompt(text, self.tokenizer.encode(text))


def test_a_model_may_bring_its_own_tokenizer_and_chat_format() -> None:
    model = Letters(SPEC)
    reply = collect(model, asking("Hi", max_tokens=4))
    assert (reply.text, reply.end.finish_reason) == ("abcd", "length")
    assert (reply.end.usage.prompt_tokens, reply.end.usage.completion_tokens) == (len("user: Hi\n"), 4)
    assert reply.end.token_ids is not None
    assert reply.end.token_ids.model_hash == "letters-1"
    assert model.info.n_ctx > 0


def test_a_tokenizer_without_control_tokens_makes_plain_text_of_the_template() -> None:
    class Plain(Says):
        def __init__(self) -> None:
            super().__init__(lambda: ["x"])
            self.tokenizer = LetterTokenizer()

    rendered = Plain().render([Message.user("Hi")])
    assert rendered.tokens == tuple(map(ord, rendered.text))


def test_a_prompt_that_fails_ends_its_request_with_that_error() -> None:
    class Strict(Says):
        def prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> RenderedPrompt:
            raise TemplateError("never satisfied")

    assert isinstance(collect(Strict(list), asking()).end.error, TemplateError)


class OneModel(SimpleBackend):
    """Loads `Says`, or fails to."""

    name = "one"

    def __init__(self, *, failing: bool = False) -> None:
        super().__init__()
        self.opened: list[Says] = []
        self._failing = failing

    def open(self, spec: ModelSpec) -> SimpleModel:
        if self._failing:
            raise ModelLoadError("cannot")
        self.opened.append(Says(lambda: ["x"], spec))
        return self.opened[-1]


def test_a_load_tells_its_progress_and_names_the_backend() -> None:
    told: list[float] = []
    backend = OneModel()
    model: LoadedModel = backend.load(SPEC, lambda progress: told.append(progress.fraction))
    assert told == [0.0, 1.0]
    assert (model.info.name, model.info.backend, model.info.architecture) == ("mine", "one", "one")


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_a_load_that_is_cancelled_leaves_no_model_open(at: float) -> None:
    backend = OneModel()
    with pytest.raises(LoadCancelledError, match="'mine'"):
        backend.load(SPEC, lambda progress: progress.fraction != at)
    assert all(model.closed and model.freed == 1 for model in backend.opened)
    assert len(backend.opened) == (at == 1.0)


def test_what_a_backend_raises_while_opening_reaches_the_caller() -> None:
    with pytest.raises(ModelLoadError, match="cannot"):
        OneModel(failing=True).load(SPEC)


def test_a_backend_closed_while_it_loads_closes_what_it_loaded() -> None:
    backend = OneModel()
    with pytest.raises(ClosedError, match="'one'"):
        backend.load(SPEC, lambda progress: backend.close() if progress.fraction else None)
    assert backend.opened[0].closed


def test_the_example_checks_itself_and_chats(capsys: pytest.CaptureFixture[str]) -> None:
    custom_backend.main()
    assert capsys.readouterr().out.splitlines() == [
        "The backend keeps every rule.",
        "Why blue is the sky?",
        "Say once... (length, 2 tokens)",
    ]


def test_a_backend_of_ones_own_is_found_by_its_import_path() -> None:
    with ModelManager("examples.custom_backend:BackwardsBackend") as models:
        assert ChatSession(models.load("any")).send("b a").text == "a b"

"""`Model.generate_many`: results as they come, bad prompts, laziness, memory, progress; see test_batch_ends, too."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from localllm import (
    BatchItem,
    BatchProgress,
    ChatSession,
    ClosedError,
    ContextOverflowError,
    FakeBackend,
    FakeReply,
    GenerationTimeoutError,
    InvalidOptionError,
    InvalidPromptError,
    LocalLLMError,
    Message,
    Model,
    ModelConfig,
    ModelInfo,
    ModelManager,
    Prompt,
    PromptTypeError,
    RequestOptions,
    TemplateError,
    UnknownOptionError,
)
from localllm.batch_results import BatchResults, window_of
from localllm.testing import ManualClock
from tests.batches import STOP, Choosing, Late, scripted, texts
from tests.by_hand import loaded
from tests.chats import Script, in_thread


@pytest.fixture
def echo() -> Model:
    """A model that answers each prompt with its own text, but those that begin with "slow"."""
    return loaded(Choosing(lambda text: not text.startswith("slow")))


def test_every_prompt_has_a_result_with_its_key(echo: Model) -> None:
    """Text, a message, and a conversation that begins with a system message; an index is a plain prompt's key."""
    items: list[Prompt | BatchItem] = [
        "a",
        Message.user("b"),
        BatchItem("third", [Message.system("s"), Message.user("c")]),
    ]
    results = list(echo.generate_many(items))
    assert [(result.key, result.index) for result in results] == [("0", 0), ("1", 1), ("third", 2)]
    assert [result.reply and result.reply.text for result in results] == ["a", "b", "c"]
    assert all(result.error is None for result in results)


def test_prompts_are_asked_like_a_sessions_first_one() -> None:
    """The same messages and the same validated options as with `ChatSession.send`."""
    model, backend = scripted("x", "x", "x", "x")
    prompts: list[Prompt] = ["a", [Message.system("s"), Message.user("b")]]
    list(model.generate_many(prompts, temperature=0.25, stop="\n", max_tokens=3))
    for prompt in prompts:
        ChatSession(model, temperature=0.25, stop="\n", max_tokens=3).send(prompt)
    assert backend.requests[:2] == backend.requests[2:]


def test_results_come_as_they_finish_or_in_order(echo: Model) -> None:
    """What is done is not held back, unless order was asked for."""
    prompts = ["slow", "b", "c"]
    assert [result.index for result in itertools.islice(echo.generate_many(prompts), 2)] == [1, 2]

    hand = Choosing(lambda text: text != "slow")
    results = loaded(hand).generate_many(["slow", "b", "c"], ordered=True)
    hand.on_generate = lambda request: hand.end(STOP, request=0) if len(hand.requests) == 2 else None
    assert [result.index for result in results] == [0, 1, 2]


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (7, PromptTypeError),
        (None, PromptTypeError),
        (b"bytes", PromptTypeError),
        ({"role": "user", "content": "x"}, PromptTypeError),
        (["a", "b"], PromptTypeError),
        ("", InvalidPromptError),
        ([], InvalidPromptError),
        ("lone \ud800 surrogate", InvalidPromptError),
        ("nul \0", InvalidPromptError),
        ([Message.user("a"), Message.system("late")], InvalidPromptError),
        (Message("assistant", "who is asked?"), InvalidPromptError),
        ("long " * 200, ContextOverflowError),
    ],
)
def test_a_bad_prompt_is_one_failed_result(bad: object, kind: type[LocalLLMError]) -> None:
    """Its error says what is wrong; the others are answered."""
    model, _ = scripted(*["x"] * 4, config=ModelConfig(n_ctx=100))
    items = ["good", cast("Prompt", bad), BatchItem("bad", cast("Prompt", bad)), "good"]
    results = list(model.generate_many(items, ordered=True))
    assert [result.key for result in results] == ["0", "1", "bad", "3"]
    assert [type(result.error) for result in results] == [type(None), kind, kind, type(None)]
    assert [result.reply is None for result in results] == [False, True, True, False]


class Unreadable(Sequence[Message]):
    """A sequence whose file is gone, say."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: object) -> Message:  # type: ignore[override]
        raise OSError("gone")


def test_a_prompt_that_fails_when_it_is_read_is_a_failed_result(echo: Model) -> None:
    """Its own exception is the cause of the error."""
    (result,) = echo.generate_many([Unreadable()])
    assert isinstance(result.error, InvalidPromptError)
    assert isinstance(result.error.__cause__, OSError)


def test_failed_replies_are_failed_results_with_what_there_was() -> None:
    """Errors and time-outs of a reply: the error's `.reply` is the partial one, and the next prompt is answered."""
    clock = ManualClock(auto_advance=True)
    script: list[Script] = [
        FakeReply("half a", error=TemplateError("refused"), error_at=1),
        FakeReply("a b", delay_s=2),
        "fine",
    ]
    model = ModelManager(FakeBackend(script, clock=clock)).load("fake")
    refused, late, fine = model.generate_many(["a", "b", "c"], ordered=True, timeout_s=3)
    assert isinstance(refused.error, TemplateError)
    assert refused.error.reply is not None
    assert refused.error.reply.text == "half"
    assert isinstance(late.error, GenerationTimeoutError)
    assert late.error.reply is not None
    assert late.error.reply.text == "a"
    assert fine.reply is not None


def test_results_hold_no_frames() -> None:
    """An error that is kept keeps no traceback, and so no prompts and no model."""
    model, _ = scripted(ValueError("boom"))
    (result,) = model.generate_many(["a"])
    assert result.error is not None
    assert result.error.__traceback__ is None
    assert isinstance(result.error.__cause__, ValueError)


@pytest.mark.parametrize("items", ["text", b"text", Message.user("a"), BatchItem("k", "a"), {"key": "a"}, 7, None])
def test_what_is_no_iterable_of_prompts_is_refused_at_once(echo: Model, items: object) -> None:
    """A str would else be a prompt for each letter, a mapping one for each key."""
    with pytest.raises(PromptTypeError, match=r"generate_many"):
        echo.generate_many(cast("list[Prompt]", items))


def test_mistakes_in_the_call_are_raised_at_once(echo: Model) -> None:
    """Before anything is pulled."""
    with pytest.raises(UnknownOptionError, match=r"did you mean 'temperature'"):
        echo.generate_many(["a"], temprature=1)  # type: ignore[call-arg]
    with pytest.raises(InvalidOptionError):
        echo.generate_many(["a"], ordered="yes")  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError):
        echo.generate_many(["a"], on_progress=7)  # type: ignore[arg-type]
    with pytest.raises(PromptTypeError, match=r"key must be a str, not int"):
        BatchItem(7, "a")  # type: ignore[arg-type]
    echo.close()
    with pytest.raises(ClosedError):
        echo.generate_many(["a"])


def test_equal_keys_are_two_results(echo: Model) -> None:
    """They are told apart by their index: keys of a million prompts are not remembered."""
    results = list(echo.generate_many([BatchItem("k", "a"), BatchItem("k", "b")]))
    assert [(result.key, result.index) for result in results] == [("k", 0), ("k", 1)]


def test_nothing_to_do_is_no_result(echo: Model) -> None:
    """An empty input ends at once, and stays at its end."""
    results = echo.generate_many(())
    assert list(results) == []
    assert list(results) == []


@pytest.mark.parametrize("ordered", [False, True])
def test_the_input_is_pulled_as_it_is_needed(ordered: bool) -> None:
    """Nothing before the first result is asked for; then no more than the window ahead, or thrice that in order."""
    model = loaded(Choosing(lambda text: text != "0", window=4))
    pulled = 0
    enough = threading.Event()

    def prompts() -> Iterator[str]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            if pulled == 12:
                enough.set()
            yield str(number)

    results = model.generate_many(prompts(), ordered=ordered)
    assert pulled == 0
    if ordered:
        stuck = in_thread(lambda: next(results))  # for ever: it waits for the first prompt
        assert enough.wait(15)
        cast("BatchResults", results).close()
        assert isinstance(stuck(), StopIteration)
        assert pulled == 12
    else:
        for count in range(1, 50):
            next(results)
            assert pulled <= count + 4


def test_a_slow_input_holds_no_result_back() -> None:
    """A reply that is there is handed out after one more prompt, not after a whole window of them."""
    model = loaded(Choosing(lambda text: True, window=8))
    prompts = iter(["a", "b", "c", "d"])
    results = model.generate_many(prompts)
    assert next(results).index == 0
    assert list(prompts) == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("info", "options", "window"),
    [
        (ModelInfo(name="does not tell"), RequestOptions(), 8),
        (ModelInfo(name="m", n_parallel=1, max_queue=1024), RequestOptions(), 3),
        (ModelInfo(name="m", n_parallel=8, max_queue=1024), RequestOptions(), 12),
        (ModelInfo(name="m", n_parallel=8, max_queue=1), RequestOptions(), 9),
        (ModelInfo(name="m", n_parallel=8, max_queue=0), RequestOptions(), 8),
        (ModelInfo(name="m", n_parallel=8, max_queue=1024), RequestOptions(timeout_s=1), 8),
        (ModelInfo(name="m", n_parallel=8, max_queue=1024), RequestOptions(timeout_s=1, deterministic=True), 1),
    ],
)
def test_the_window_fits_the_model(info: ModelInfo, options: RequestOptions, window: int) -> None:
    """A few more than run at once, no more than the queue takes, and none that waits where that would count."""
    assert window_of(info, options) == window


def test_models_tell_how_much_they_do_at_once(smollm2_path: Path) -> None:
    """The fake and the real one, as configured."""
    config = ModelConfig(n_ctx=64, n_parallel=3, max_queue=5)
    for backend, ref in ((FakeBackend([]), "fake"), (None, smollm2_path)):
        with ModelManager(backend) as models:
            info = models.load(ref, config=config).info
            assert (info.n_parallel, info.max_queue) == (3, 5)


@pytest.mark.no_cover
def test_memory_is_bounded_for_twenty_thousand_prompts() -> None:
    """The second half of them never needs more than 100 KB, ten bytes a prompt."""
    results = loaded(Late()).generate_many(f"prompt {number}" for number in range(20_000))
    assert sum(1 for _ in itertools.islice(results, 10_000)) == 10_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in itertools.islice(results, 9_996)) == 9_996
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_progress_counts_what_was_handed_out() -> None:
    """Before each result; the tokens of failed replies count, and the total is known if the input has a length."""
    model, _ = scripted("one two", FakeReply("three four", error=ValueError("x"), error_at=1), "five")
    seen: list[BatchProgress] = []
    counts = [len(seen) for _ in model.generate_many(["a", "b", "c"], ordered=True, on_progress=seen.append)]
    assert counts == [1, 2, 3]
    assert [(each.done, each.failed, each.total, each.tokens) for each in seen] == [
        (1, 0, 3, 2),
        (2, 1, 3, 3),
        (3, 1, 3, 4),
    ]
    assert all(each.tokens_per_s > 0 for each in seen)
    model, _ = scripted("x")
    seen.clear()
    list(model.generate_many((prompt for prompt in ["a"]), on_progress=seen.append))
    assert seen[0].total is None


def test_a_job_is_resumed_by_its_keys() -> None:
    """The pattern: skip the keys that are done; what failed is asked again."""
    prompts = {"a": "first", "b": "second", "c": "third"}
    done: dict[str, str] = {}
    model, backend = scripted("1", ValueError("boom"), "3", "2")
    for _ in range(2):
        todo = (BatchItem(key, prompt) for key, prompt in prompts.items() if key not in done)
        for result in model.generate_many(todo):
            if result.reply is not None:
                done[result.key] = result.reply.text
    assert done == {"a": "1", "b": "2", "c": "3"}
    assert len(backend.requests) == 4


def test_a_few_prompts_equal_sessions_on_the_real_model(smollm2_path: Path) -> None:
    """With `deterministic=True` a batch says what a session says."""
    prompts = [f"Name one thing that is {color}." for color in ("red", "green", "blue")]
    with ModelManager() as models:
        model = models.load(smollm2_path, config=ModelConfig(n_ctx=512))
        batch = texts(model.generate_many(prompts, deterministic=True, temperature=0.0, max_tokens=12))
        for index, prompt in enumerate(prompts):
            reply = ChatSession(model, deterministic=True, temperature=0.0, max_tokens=12).send(prompt)
            assert batch[str(index)] == reply.text
        assert all(batch.values())

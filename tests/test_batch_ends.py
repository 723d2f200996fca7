"""`Model.generate_many`: every way in which it ends, and what it does when the model's queue is full."""

from __future__ import annotations

import gc
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import cast

import pytest

from localllm import (
    BatchProgress,
    BatchResult,
    ChatSession,
    ClosedError,
    FakeBackend,
    FakeReply,
    Model,
    ModelConfig,
    ModelManager,
    QueueFullError,
)
from localllm.batch_results import BatchResults
from localllm.testing import ManualClock
from tests.batches import CANCELLED, Choosing, scripted, texts
from tests.by_hand import loaded
from tests.chats import Script, in_thread


def _raise_in_input(model: Model) -> None:
    def prompts() -> Iterator[str]:
        yield from ("slow", "slow")
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        next(results := model.generate_many(prompts()))
    assert list(results) == []


def _raise_in_progress(model: Model) -> None:
    def stop(progress: BatchProgress) -> None:
        raise KeyboardInterrupt

    results = model.generate_many(["slow", "slow", "quick"], on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert list(results) == []


def _break_from_for(model: Model) -> None:
    for result in model.generate_many(["slow", "slow", "quick"]):
        assert result.index == 2
        break


def _raise_in_for(model: Model) -> None:
    with pytest.raises(ZeroDivisionError):
        for result in model.generate_many(["slow", "slow", "quick"]):
            1 / (result.index - 2)


def _close(model: Model) -> None:
    results = cast("BatchResults", model.generate_many(["slow", "slow", "quick"]))
    with closing(results):
        next(results)
    assert list(results) == []


def _drop(model: Model) -> None:
    results = model.generate_many(["slow", "slow", "quick"])
    next(results)
    del results


@pytest.mark.parametrize("leave", [_raise_in_input, _raise_in_progress, _break_from_for, _raise_in_for, _close, _drop])
def test_however_one_leaves_what_is_under_way_is_cancelled(leave: Callable[[Model], None]) -> None:
    """At once, and without the garbage collector's help."""
    hand = Choosing(lambda text: text == "quick")
    model = loaded(hand)
    gc.disable()
    try:
        leave(model)
        assert hand.cancelled == [0, 1]
    finally:
        gc.enable()


def test_closing_ends_a_generator_that_is_the_input() -> None:
    """It cleans up at once, as if it had been left by a `for`."""
    cleaned: list[bool] = []

    def prompts() -> Iterator[str]:
        try:
            yield from itertools.repeat("x")
        finally:
            cleaned.append(True)

    results = cast("BatchResults", loaded(Choosing(lambda text: True)).generate_many(prompts()))
    next(results)
    results.close()
    assert cleaned == [True]


def test_a_wait_is_ended_from_another_thread() -> None:
    """`close` wakes whoever waits for a result, and nothing stays under way."""
    hand = Choosing(lambda text: False)
    results = cast("BatchResults", loaded(hand).generate_many(["a", "b"]))
    wait = in_thread(lambda: next(results))
    assert [hand.came.get(timeout=15) for _ in range(2)] == ["a", "b"]
    results.close()
    assert isinstance(wait(), StopIteration)
    assert hand.cancelled == [0, 1]


def test_closing_the_model_fails_what_is_under_way_and_ends_the_batch() -> None:
    """Results for all that was pulled, then ClosedError if there is more; partial replies are in the errors."""
    clock = ManualClock()
    backend = FakeBackend(itertools.chain(["one"], itertools.repeat(FakeReply("a b", delay_s=1))), clock=clock)
    model = ModelManager(backend).load("fake", config=ModelConfig(n_parallel=2))
    results = model.generate_many(str(number) for number in itertools.count())
    assert next(results).reply is not None
    model.close()
    failed: list[BatchResult] = []
    with pytest.raises(ClosedError):
        failed.extend(results)  # pulls one by one, so that those before the exception are there
    assert 0 < len(failed) <= 5
    assert {type(result.error) for result in failed} == {ClosedError}
    assert list(results) == []


def test_closing_the_model_at_the_inputs_end_is_no_exception() -> None:
    """Every prompt has its result, so there is nothing more to say."""
    hand = Choosing(lambda text: text == "quick", window=2)
    results = loaded(hand).generate_many(["slow", "quick"])
    assert next(results).index == 1
    hand.end(CANCELLED, request=0)
    (last,) = results
    assert isinstance(last.error, ClosedError)


def test_a_batch_never_fills_the_queue_by_itself() -> None:
    """It knows how many run and wait at most, so no request of 300 is refused."""
    for config in (ModelConfig(n_parallel=2, max_queue=0), ModelConfig(max_queue=1), ModelConfig(n_parallel=8)):
        backend = FakeBackend(itertools.repeat("ok"))
        model = ModelManager(backend).load("fake", config=config)
        assert len(texts(model.generate_many(["x"] * 300))) == 300
        assert model.stats().finished == 300


def test_a_full_queue_is_waited_for() -> None:
    """Requests that found no room because of others are sent again, and nothing fails."""
    full = QueueFullError("full")
    model, backend = scripted(full, full, "a", full, "b", "c", config=ModelConfig(n_parallel=2))
    assert set(texts(model.generate_many(["x", "y", "z"])).values()) == {"a", "b", "c"}
    assert len(backend.requests) == 6


class Noticing(logging.Handler):
    """Sets `noticed` at the first record."""

    def __init__(self) -> None:
        super().__init__()
        self.noticed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.noticed.set()


def test_a_queue_that_others_have_filled_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """A chat holds the model's only place; when it ends the batch goes on. The log tells of the wait (DEBUG)."""
    log, refused = logging.getLogger("localllm.batch"), Noticing()
    caplog.set_level(logging.DEBUG, log.name)
    log.addHandler(refused)
    clock = ManualClock()
    script: Iterator[Script] = itertools.chain([FakeReply("late", delay_s=1)], itertools.repeat("ok"))
    with ModelManager(FakeBackend(script, clock=clock)) as models:
        model = models.load("fake", config=ModelConfig(n_parallel=1, max_queue=0))
        stream = ChatSession(model).stream("first")
        done: list[BatchResult] = []
        wait = in_thread(lambda: done.extend(model.generate_many(["a", "b"])))
        assert refused.noticed.wait(15)
        clock.advance(1)
        assert stream.reply.text == "late"
        assert wait() is None
        assert [result.reply and result.reply.text for result in done] == ["ok", "ok"]
    log.removeHandler(refused)

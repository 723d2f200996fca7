"""With on_crash="resume" a crash is a pause: nothing is lost, nothing comes twice."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

import pytest

from localllm import ChatSession, Model, ModelConfig, ModelManager, WorkerCrashedError
from tests.worker import hostile, resuming
from tests.worker.harness import LIMIT_S, assert_answers, has_ended, kill, managed, nothing_left

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STREAMS = 4


class Kills:
    """Kills the workers now and then, whenever so many chunks have come; its moments are random."""

    def __init__(self, models: ModelManager, count: int, seed: int, furthest: int) -> None:
        self.left = count
        self._models = models
        self._random = random.Random(seed)
        self._furthest = furthest
        self._next = self._random.randrange(furthest)
        self._lock = threading.Lock()

    def chunk_came(self) -> None:
        with self._lock:
            self._next -= 1
            if self.left > 0 and self._next < 0:
                (info,) = self._models.workers()
                if info.pid is not None and not has_ended(info.pid):
                    self.left -= 1
                    self._next = self._random.randrange(self._furthest)
                    with suppress(ProcessLookupError):  # it has just ended, by the kill before
                        kill(self._models, self._random.choice(["SIGKILL", "SIGSEGV", "SIGABRT"]))


def _read(model: Model, prompt: str, kills: Kills, into: list[str]) -> None:
    text = []
    for chunk in ChatSession(model).stream(prompt):
        text.append(chunk.text)
        kills.chunk_came()
    into.append("".join(text))


def _in_threads(model: Model, prompts: Iterable[str], kills: Kills) -> list[str]:
    texts: list[str] = []
    threads = [threading.Thread(target=_read, args=(model, prompt, kills, texts)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


def _kill_often(kills_in_all: int, seed: int) -> int:
    """Run four streams again and again until so many workers were killed; return how many replies that took."""
    replies = 0
    with managed(on_crash="resume") as models:
        model = models.load("ok", config=ModelConfig(n_parallel=STREAMS))
        kills = Kills(models, kills_in_all, seed, furthest=120)
        while kills.left > 0:
            counts = [400 + 7 * index for index in range(STREAMS)]
            texts = _in_threads(model, [f"slow {count}" for count in counts], kills)
            assert sorted(texts, key=len) == [hostile.expected(count) for count in counts]
            replies += STREAMS
        assert 0.8 * kills_in_all <= models.workers()[0].restarts <= kills_in_all  # one may meet a dying worker
        assert_answers(model)
    return replies


def test_ten_kills_in_a_row_lose_nothing() -> None:
    """Four streams, killed at random moments: every text is whole."""
    assert _kill_often(10, seed=1) >= STREAMS


@pytest.mark.soak
def test_two_hundred_kills_in_a_row_lose_nothing() -> None:
    """The same for long."""
    began_s = time.monotonic()
    replies = _kill_often(200, seed=2)
    print(f"\n200 kills: {replies} replies, all whole, in {time.monotonic() - began_s:.0f} s")


def test_a_backend_that_can_goes_on_from_its_own_tokens() -> None:
    """Where no second run says the same: each number once, in order, whatever was in between."""
    with nothing_left(), ModelManager(resuming.PATH, on_crash="resume") as models:
        model = models.load("ok", config=ModelConfig(n_parallel=STREAMS))
        kills = Kills(models, 6, seed=3, furthest=150)
        for text in _in_threads(model, ["900"] * STREAMS, kills):
            assert [int(word.partition(":")[0]) for word in text.split()] == list(range(900))
        assert kills.left == 0


def test_a_resumed_reply_counts_all_of_it() -> None:
    """Usage and timings are those of the whole reply, as the caller saw it."""
    with managed(on_crash="resume") as models:
        chat = ChatSession(models.load("ok"))
        stream = chat.stream("say 5\nwait 0.3\nsay 5")
        chunks = iter(stream)
        next(chunks)
        kill(models, "SIGKILL")
        reply = stream.reply
        assert reply.text == 2 * hostile.expected(5)
        assert reply.finish_reason == "stop"
        assert reply.usage.completion_tokens == 20
        assert reply.timings.decode_s > 0.3
        assert chat.history[-1].content == reply.text


def test_a_reply_that_has_not_begun_is_begun_again() -> None:
    """It has delivered nothing, so there is nothing to leave out."""
    with managed(on_crash="resume") as models:
        stream = ChatSession(models.load("ok")).stream("wait 0.5\nsay 5")
        kill(models, "SIGKILL")
        assert stream.reply.text == hostile.expected(5)


def test_what_kills_its_worker_each_time_is_given_up() -> None:
    """A reply that crashes one worker after the other, at last alone, ends; others beside it are whole."""
    with managed(on_crash="resume") as models:
        model = models.load("ok", config=ModelConfig(n_parallel=2))
        other = ChatSession(model).stream("slow 2000")
        with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
            ChatSession(model).send("kill SIGSEGV")
        assert other.reply.text == hostile.expected(2000)
        assert 3 <= models.workers()[0].restarts <= 6, "more where the other one was cut off without a token, too"


def test_a_cancel_during_the_pause_is_a_cancel() -> None:
    """The text until then is kept."""
    with managed(on_crash="resume") as models:
        chat = ChatSession(models.load("ok"))
        with chat.stream("say 5\nwait 60") as stream:
            chunks = iter(stream)
            next(chunks)
            kill(models, "SIGKILL")
        assert stream.reply.finish_reason == "cancelled"
        assert chat.history[-1].content.startswith("0 ")
        assert_answers(chat.model)


def test_a_time_limit_goes_on_counting() -> None:
    """`timeout_s` is of the whole reply, not of each life of its worker."""
    with managed(on_crash="resume") as models:
        stream = ChatSession(models.load("ok")).stream("say 5\nwait 60", timeout_s=1.5)
        chunks = iter(stream)
        next(chunks)
        began_s = time.monotonic()
        kill(models, "SIGKILL")
        with pytest.raises(TimeoutError):
            list(chunks)
        assert time.monotonic() - began_s < LIMIT_S
        assert stream.reply.finish_reason == "timeout"


def test_questions_are_asked_again() -> None:
    """A crash during a question is not seen."""
    with managed(on_crash="resume") as models:
        model = models.load("ok")
        kill(models, "SIGKILL")
        assert model.detokenize(model.tokenize("hello there")) == "hello there"

"""Each limit has an error of its own, frees its slot, and leaves a worker that answers."""

from __future__ import annotations

import sys

import pytest

from localllm import (
    ChatSession,
    FirstTokenTimeoutError,
    GenerationTimeoutError,
    InvalidOptionError,
    LoadTimeoutError,
    ModelConfig,
    ModelManager,
    ReplyTimeoutError,
    Timeouts,
    TokenTimeoutError,
    WorkerStartTimeoutError,
)
from tests.worker import hostile
from tests.worker.harness import LIMIT_S, ask, assert_answers, is_gone, managed, nothing_left, until, worker_pid

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_start_has_a_limit() -> None:
    """A backend that cannot be imported in time; the process is gone."""
    with nothing_left(), ModelManager("tests.worker.stuck_import:Never", timeouts=Timeouts(start_s=0.5)) as models:
        for _ in range(2):
            with pytest.raises(WorkerStartTimeoutError, match=r"Timeouts.start_s=0.5 s"):
                models.load("any")
        assert models.workers() == ()


def test_a_load_has_a_limit() -> None:
    """Its process is gone, and the next load is not harmed."""
    with managed(timeouts=Timeouts(load_s=0.5)) as models:
        with pytest.raises(LoadTimeoutError, match=r"'load:hang' was not loaded within Timeouts.load_s=0.5 s"):
            models.load("load:hang")
        assert models.workers() == ()
        assert_answers(models.load("ok"))


@pytest.mark.parametrize(("command", "replaced"), [("wait 60", False), ("hang", True)])
def test_a_first_token_has_a_limit(command: str, replaced: bool) -> None:
    """The slot is free again: the worker stays, if it lets go of the request, and is replaced if it does not."""
    with managed(timeouts=Timeouts(first_token_s=0.4, close_s=0.5)) as models:
        model = models.load("ok")
        pid = worker_pid(models)
        with pytest.raises(FirstTokenTimeoutError, match=r"Timeouts.first_token_s=0.4 s") as caught:
            ask(model, command)
        assert isinstance(caught.value, GenerationTimeoutError)
        assert caught.value.reply is not None
        assert caught.value.reply.finish_reason == "timeout"
        assert_answers(model)
        assert (worker_pid(models) != pid) == is_gone(pid) == replaced


@pytest.mark.parametrize(("command", "replaced"), [("wait 60", False), ("hang", True)])
def test_a_further_token_has_a_limit(command: str, replaced: bool) -> None:
    """What was made until then is kept in the history, as after any time-out."""
    with managed(timeouts=Timeouts(between_tokens_s=0.4, close_s=0.5)) as models:
        chat = ChatSession(models.load("ok"))
        pid = worker_pid(models)
        with pytest.raises(TokenTimeoutError, match=r"Timeouts.between_tokens_s=0.4 s"):
            chat.send(f"say 3\nwait 0.1\nsay 3\nwait 0.1\n{command}")
        assert chat.history[-1].content == 2 * hostile.expected(3)
        assert chat.history[-1].finish_reason == "timeout"
        assert_answers(chat.model)
        assert (worker_pid(models) != pid) == replaced


def test_a_reply_has_a_limit_unless_it_has_one_of_its_own() -> None:
    """`timeout_s` of a request goes before `Timeouts.reply_s`."""
    with managed(timeouts=Timeouts(reply_s=0.4)) as models:
        chat = ChatSession(models.load("ok"))
        with pytest.raises(ReplyTimeoutError, match=r"Timeouts.reply_s=0.4 s") as caught:
            chat.send("slow 1000000")
        assert caught.value.reply is not None
        assert caught.value.reply.text.startswith("0 1 2 3")
        assert chat.send("say 2\nwait 0.6\nsay 2", timeout_s=30).text == 2 * hostile.expected(2)
        with pytest.raises(GenerationTimeoutError, match=r"timeout_s=0.1 s"):
            chat.send("wait 60", timeout_s=0.1)


def test_a_worker_that_does_not_keep_a_requests_own_limit_is_replaced() -> None:
    """The backend should; if it hangs, the parent does."""
    with managed(timeouts=Timeouts(close_s=0.5)) as models:
        model = models.load("ok")
        pid = worker_pid(models)
        with pytest.raises(GenerationTimeoutError):
            ChatSession(model).send("hang", timeout_s=0.2)
        assert_answers(model)
        assert is_gone(pid)


def test_waiting_for_others_is_no_fault() -> None:
    """A request in the queue counts from the last sign of life of those before it."""
    with managed(timeouts=Timeouts(first_token_s=1.0)) as models:
        model = models.load("ok", config=ModelConfig(n_parallel=1))
        ahead = ChatSession(model).stream("say 1\nwait 0.7\nsay 1\nwait 0.7\nsay 1")
        assert ask(model, "say 3").text == hostile.expected(3)
        assert ahead.reply.text == 3 * hostile.expected(1)


def test_one_that_runs_out_of_time_does_not_end_others() -> None:
    """As long as the worker lets go of it."""
    with managed(timeouts=Timeouts(first_token_s=0.5)) as models:
        model = models.load("ok", config=ModelConfig(n_parallel=2))
        other = ChatSession(model).stream("say 1\nwait 1.5\nsay 1")
        with pytest.raises(FirstTokenTimeoutError):
            ask(model, "wait 60")
        assert other.reply.text == 2 * hostile.expected(1)


def test_a_close_has_a_limit() -> None:
    """After it the worker is ended; a close does not fail."""
    with managed(timeouts=Timeouts(close_s=0.5)) as models:
        model = models.load("close:hang")
        pid = worker_pid(models)
        model.close()
        assert is_gone(pid)


def test_a_question_has_a_limit() -> None:
    """One that the backend never answers ends, and so does its worker."""
    with managed(timeouts=Timeouts(first_token_s=0.4, close_s=0.4)) as models:
        model = models.load("tokenize:hang")
        with pytest.raises(GenerationTimeoutError, match=r"did not answer Tokenize within 0.8 s"):
            model.tokenize("x")
        assert_answers(model)


def test_a_cancel_during_a_restart_ends_the_request() -> None:
    """It never reaches a worker."""
    with managed() as models:
        model = models.load("ok")
        until(lambda: models.workers()[0].state == "ready", "it is there")
        for _ in range(4):
            with pytest.raises(Exception, match="SIGKILL"):
                ask(model, "kill SIGKILL")
        stream = ChatSession(model).stream("wait 60")  # the fifth start waits for 0.4 s
        stream.cancel()
        assert stream.reply.finish_reason == "cancelled"
        assert stream.reply.timings.queue_s < LIMIT_S


@pytest.mark.parametrize("name", ["start_s", "load_s", "first_token_s", "between_tokens_s", "reply_s", "close_s"])
@pytest.mark.parametrize("value", [0, -1.0, "1", True, float("nan")])
def test_a_limit_is_a_number_of_seconds(name: str, value: object) -> None:
    """Above zero; the message names it."""
    with pytest.raises(InvalidOptionError, match=f"{name} must be a number above 0"):
        Timeouts(**{name: value})  # type: ignore[arg-type]

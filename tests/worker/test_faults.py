"""The fault table: whatever a worker does, the caller gets the right error, and the next request is answered."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from localllm import (
    BackendError,
    ChatSession,
    LocalLLMError,
    ModelConfig,
    ModelLoadError,
    WorkerCrashedError,
    WorkerFrozenError,
    WorkerMemoryError,
    WorkerProtocolError,
)
from tests.worker import hostile
from tests.worker.harness import LIMIT_S, QUICK, ask, assert_answers, is_gone, kill, managed, until, worker_pid

SIGNALS = ["SIGKILL", "SIGSEGV", "SIGABRT"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("name", SIGNALS)
def test_a_crash_while_idle_is_not_seen(name: str) -> None:
    """The worker is gone at once, and the next request is answered by a new one."""
    with managed() as models:
        model = models.load("ok")
        pid = kill(models, name)
        until(lambda: models.workers()[0].state == "down", "the crash is noticed")
        assert models.workers()[0].pid is None
        assert_answers(model)
        (info,) = models.workers()
        assert (info.restarts, info.state) == (1, "ready")
        assert is_gone(pid)


def test_a_dead_worker_is_noticed_within_a_tenth_of_a_second() -> None:
    """From the signal to the error in the hands of who reads the stream; the quickest of five, for a busy machine."""
    took_s = []
    with managed() as models:
        model = models.load("ok")
        for _ in range(5):
            chunks = iter(ChatSession(model).stream("say 1\nwait 60"))
            next(chunks)
            began_s = time.monotonic()
            kill(models, "SIGKILL")
            with pytest.raises(WorkerCrashedError):
                next(chunks)
            took_s.append(time.monotonic() - began_s)
    assert min(took_s) < 0.1


def test_a_request_right_after_a_crash_is_answered() -> None:
    """Also when the crash has not been noticed yet: the backend never saw it.

    (Of the other signals faulthandler tells first, and meanwhile a thread of the worker may hand the request over.)
    """
    with managed() as models:
        model = models.load("ok")
        kill(models, "SIGKILL")
        assert_answers(model)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_crash_while_loading_fails_the_load(name: str) -> None:
    """With the signal and the last words; the manager goes on."""
    with managed() as models:
        with pytest.raises(WorkerCrashedError, match=f"while loading 'load:kill {name}': {name}") as caught:
            models.load(f"load:kill {name}")
        assert caught.value.signal_name == name
        assert caught.value.exit_code == -signal.Signals[name]
        assert_answers(models.load("ok"))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_crash_before_the_first_token_ends_the_reply(name: str) -> None:
    """With an error that names the signal; the history is unchanged and the session goes on."""
    with managed() as models:
        chat = ChatSession(models.load("ok"))
        with pytest.raises(WorkerCrashedError, match=name) as caught:
            chat.send(f"mutter GGML_ASSERT(n > 0) failed\nkill {name}")
        assert "GGML_ASSERT(n > 0) failed" in caught.value.stderr
        assert "GGML_ASSERT(n > 0) failed" in str(caught.value)
        assert caught.value.reply is not None
        assert chat.history == ()
        assert chat.send("say 3").text == hostile.expected(3)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_crash_in_the_middle_of_a_stream_ends_it_with_what_there_was(name: str) -> None:
    """The text until then was delivered, and is in the error's reply."""
    with managed() as models:
        chat = ChatSession(models.load("ok"))
        text = ""
        with pytest.raises(WorkerCrashedError, match=name) as caught:
            for chunk in chat.stream("say 20\nwait 60"):
                text += chunk.text
                if text == hostile.expected(20):
                    kill(models, name)
        reply = caught.value.reply
        assert reply is not None
        assert reply.text == text == hostile.expected(20)
        assert reply.finish_reason == "error"
        assert reply.usage.completion_tokens == 20
        assert reply.timings.first_token_s > 0
        assert chat.history == ()
        assert_answers(chat.model)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_crash_while_closing_is_a_close(name: str) -> None:
    """There is nothing left to save."""
    with managed() as models:
        model = models.load(f"close:kill {name}")
        assert_answers(model)
        model.close()
        assert models.workers() == ()
        assert_answers(models.load("ok"))


def test_every_reply_under_way_ends_with_the_crash() -> None:
    """Each with an error of its own, which holds its own partial reply."""
    with managed() as models:
        model = models.load("ok", config=ModelConfig(n_parallel=3))
        streams = [iter(ChatSession(model).stream(f"say {count}\nwait 60")) for count in (1, 2, 3)]
        for stream in streams:
            next(stream)
        kill(models, "SIGKILL")
        errors = []
        for stream in streams:
            with pytest.raises(WorkerCrashedError) as caught:
                list(stream)
            errors.append(caught.value)
        assert [error.reply and error.reply.text[:2] for error in errors] == ["0 ", "0 ", "0 "]
        assert len({id(error) for error in errors}) == 3
        assert_answers(model)


def test_a_stopped_worker_is_frozen() -> None:
    """SIGSTOP: noticed within the heartbeat limit, told from a crash, and replaced."""
    with managed(timeouts=QUICK) as models:
        chat = ChatSession(models.load("ok"))
        stream = iter(chat.stream("say 2\nwait 60"))
        next(stream)
        pid = kill(models, "SIGSTOP")
        with pytest.raises(WorkerFrozenError, match=r"frozen: it gave no sign of life for nearly 1 s"):
            list(stream)
        assert_answers(chat.model)
        assert is_gone(pid)


def test_a_worker_that_is_stopped_while_idle_is_replaced() -> None:
    """Nobody has to ask it first."""
    with managed(timeouts=QUICK) as models:
        model = models.load("ok")
        kill(models, "SIGSTOP")
        until(lambda: models.workers()[0].state == "down", "it is noticed")
        assert_answers(model)


def test_a_worker_that_is_stopped_while_loading_fails_the_load() -> None:
    """Liveness is watched from the start."""
    with managed(timeouts=QUICK) as models:
        errors: list[BaseException] = []

        def load() -> None:
            with pytest.raises(WorkerFrozenError) as caught:
                models.load("load:hang")
            errors.append(caught.value)

        thread = threading.Thread(target=load)
        thread.start()
        until(lambda: [info.state for info in models.workers()] == ["loading"], "the load has begun")
        kill(models, "SIGSTOP")
        thread.join(LIMIT_S)
        assert errors


@pytest.mark.parametrize("command", ["busy 2", "hog 2"])
def test_a_busy_worker_is_left_alone(command: str) -> None:
    """A native call that takes longer than the heartbeat limit, whether it keeps the GIL or not, is no crash."""
    with managed(timeouts=QUICK) as models:
        model = models.load("ok")
        assert ask(model, "say 2", command, "say 2").text == 2 * hostile.expected(2)
        assert models.workers()[0].restarts == 0


def test_a_flood_on_stderr_and_stdout_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither to the terminal nor between two frames, and it stops nobody."""
    with managed() as models:
        model = models.load("ok")
        assert ask(model, "say 2", "shout 20000", "say 2").text == 2 * hostile.expected(2)
        assert models.workers()[0].restarts == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "kind", "says"),
    [
        ("garbage", WorkerProtocolError, "sent garbage: .*undefined|sent garbage: not a message"),
        ("giant", WorkerProtocolError, "a frame of 4294967295 bytes was announced"),
        ("half", WorkerCrashedError, "broke off within a frame"),
        ("shut", WorkerCrashedError, "ended while running"),
        ("exit 3", WorkerCrashedError, "exit code 3"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_ended(command: str, kind: type[LocalLLMError], says: str) -> None:
    """Garbage, a frame of 4 GiB, half a frame, a closed pipe, an exit: each with its own words."""
    with managed() as models:
        model = models.load("ok")
        pid = worker_pid(models)
        with pytest.raises(kind, match=says):
            ask(model, "say 2", command)
        assert_answers(model)
        assert is_gone(pid)


def test_a_memory_limit_turns_exhaustion_into_an_error() -> None:
    """In a request, it ends that request; what it had is free again."""
    with managed(memory_limit_bytes=400 << 20) as models:
        model = models.load("ok")
        with pytest.raises(WorkerMemoryError, match="out of memory"):
            ask(model, "eat")
        assert_answers(model)


def test_a_load_beyond_the_memory_limit_fails() -> None:
    """As an error of the load, which is a MemoryError, too."""
    with managed(memory_limit_bytes=400 << 20) as models:
        with pytest.raises(MemoryError):
            models.load("load:eat")
        assert_answers(models.load("ok"))


def test_what_a_backend_raises_arrives_as_what_it_is() -> None:
    """In load, generate and close; a foreign exception becomes ours, its own name in the text."""
    with managed() as models:
        with pytest.raises(ModelLoadError, match="ValueError: as you wish"):
            models.load("load:raise")
        model = models.load("close:raise")
        with pytest.raises(BackendError, match="as you wish"):
            ask(model, "say 2", "refuse")
        with pytest.raises(BackendError, match="ValueError: as you wish"):
            ask(model, "say 2", "raise")
        with pytest.raises(LocalLLMError, match="lone surrogate"):
            ask(model, "say 2", "surrogate", "say 2")
        assert_answers(model)
        model.close()
        assert_answers(models.load("ok"))


def test_a_process_that_the_backend_forks_does_not_hide_its_end() -> None:
    """It has no pipe to hold open, and goes with the worker."""
    with managed() as models:
        model = models.load("ok")
        with pytest.raises(WorkerCrashedError, match="SIGKILL"):
            ask(model, "fork 60", "say 2", "kill SIGKILL")
        assert_answers(model)


def test_too_many_crashes_in_a_row_are_enough() -> None:
    """A model whose worker cannot live is given up for a while: the error says so, at once."""
    with managed() as models:
        model = models.load("ok")
        for _ in range(6):
            with pytest.raises(WorkerCrashedError, match="SIGKILL"):
                ask(model, "kill SIGKILL")
        with pytest.raises(WorkerCrashedError, match="ended 6 times without a token in between"):
            ask(model, "say 3")

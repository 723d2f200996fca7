"""From the first to the last: what a worker inherits, how it ends, and that it never outlives its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    BackendUnavailableError,
    ChatSession,
    ClosedError,
    ForkedError,
    InvalidOptionError,
    LoadCancelledError,
    ModelManager,
    Timeouts,
    WorkerCrashedError,
    WorkerStartError,
)
from localllm.backends.worker import process as processes
from tests.worker import hostile
from tests.worker.harness import (
    LIMIT_S,
    QUICK,
    ask,
    assert_answers,
    has_ended,
    is_gone,
    kill,
    managed,
    nothing_left,
    until,
    worker_pid,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, signal, sys, threading
from localllm import ChatSession, ModelManager
models = ModelManager("tests.worker.hostile:HostileBackend")
model = models.load("ok")
stream = iter(ChatSession(model).stream("say 1\\nwait 60"))
next(stream)
print(models.workers()[0].pid, flush=True)
{end}
"""
"""A program without a `__main__` guard, which ends in one way or another in the middle of a reply."""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("del stream, model, models", 0),
        ("models.close()", 0),
        ("threading.Thread(target=lambda: next(stream), daemon=True).start()", 0),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("sys.exit(4)", 4),
        ("if os.fork() == 0: threading.Event().wait(20); os._exit(0)\nos._exit(5)", 5),
    ],
)
def test_the_parents_end_is_the_workers_end(end: str, code: int) -> None:
    """However it ends, without a word, and although a process that it forked lives on."""
    stdout = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PROGRAM.format(end=end)],
        stdout=stdout,
        stderr=stdout,
        start_new_session=True,
        text=True,
        cwd=ROOT,
    ) as program:
        assert program.stdout is not None
        pid = int(program.stdout.readline())
        assert program.wait(LIMIT_S) == code
        took_s = until(lambda: has_ended(pid), "the worker has ended")
        assert took_s < 2.0
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)  # what was forked
        assert program.stdout.read() == ""


def test_an_exception_in_the_parent_is_all_that_is_seen() -> None:
    """Its own traceback, and nothing of the worker."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end="1 / 0")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.strip().endswith("ZeroDivisionError: division by zero")
    until(lambda: has_ended(int(done.stdout)), "the worker has ended", 2.0)


@pytest.mark.parametrize("flags", [["-I"], ["-E", "-s"], ["-O"]])
def test_flags_of_the_interpreter_do_not_keep_a_worker_from_its_modules(flags: list[str]) -> None:
    """Also an isolated interpreter, whose worker is told where modules are."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + PROGRAM.format(end="models.close()")
    done = subprocess.run(
        [sys.executable, *flags, "-c", program], capture_output=True, text=True, cwd="/", timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_from_stdin_has_workers_too() -> None:
    """There is no file to start again, and no need for one."""
    done = subprocess.run(
        [sys.executable, "-"], input=PROGRAM.format(end=""), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_in_the_terminal_does_not_reach_the_worker() -> None:
    """It is in a session of its own, and ignores SIGINT besides."""
    with managed() as models:
        model = models.load("ok")
        pid = kill(models, "SIGINT")
        assert os.getsid(pid) == pid
        assert_answers(model)
        assert worker_pid(models) == pid


def test_a_worker_inherits_its_pipes_and_nothing_else() -> None:
    """Not even a descriptor that is inheritable; stdin is empty, and stdout is stderr."""
    secret = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        with managed() as models:
            models.load("ok")
            folder = Path(f"/proc/{worker_pid(models)}/fd")
            found = {int(file.name): os.readlink(file) for file in folder.iterdir()}
    finally:
        os.close(secret)
    assert found[0] == os.devnull
    assert found[1] == found[2]
    assert [name.partition(":")[0] for fd, name in sorted(found.items()) if fd > 2] == ["pipe", "pipe"]


def test_closing_twice_and_from_many_threads() -> None:
    """All of them wait until it is done."""
    with managed() as models:
        model = models.load("ok")
        pid = worker_pid(models)
        stream = ChatSession(model).stream("say 1\nwait 60")
        chunks = iter(stream)
        next(chunks)
        gone: list[bool] = []

        def close() -> None:
            model.close()
            gone.append(is_gone(pid))

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert gone == [True] * 4
        model.close()
        with pytest.raises(ClosedError):
            model.tokenize("x")


def test_closing_during_a_load_ends_the_load() -> None:
    """At once, whatever it does."""
    with nothing_left():
        models = ModelManager(hostile.PATH)
        failed: list[BaseException] = []

        def load() -> None:
            with pytest.raises(ClosedError) as caught:
                models.load("load:hang")
            failed.append(caught.value)

        thread = threading.Thread(target=load)
        thread.start()
        until(lambda: [info.state for info in models.workers()] == ["loading"], "the load has begun")
        models.close()
        thread.join(LIMIT_S)
        assert failed


def test_closing_during_a_restart_ends_the_restart() -> None:
    """And what waited for it."""
    with managed() as models:
        model = models.load("ok")
        for _ in range(4):
            with pytest.raises(Exception, match="SIGKILL"):
                ask(model, "kill SIGKILL")
        stream = ChatSession(model).stream("say 3")
        model.close()
        assert stream.reply.finish_reason == "cancelled"


def test_a_load_that_is_refused_ends_its_worker() -> None:
    """`on_progress` is called on the thread that loads."""
    with managed() as models:
        seen: list[int] = []

        def refuse(progress: object) -> bool:
            seen.append(threading.get_ident())
            return len(seen) < 3

        with pytest.raises(LoadCancelledError):
            models.load("progress", on_progress=refuse)
        assert seen == [threading.get_ident()] * 3
        assert models.workers() == ()


def test_a_fork_gives_a_clear_error() -> None:
    """In the forked process every use is refused, closing does nothing, and the parent's worker is not harmed."""
    with managed() as models:
        model = models.load("ok")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for use in (lambda: ask(model, "say 1"), lambda: model.tokenize("x"), lambda: models.load("ok")):
                    with pytest.raises(ForkedError, match="fork"):
                        use()
                models.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert_answers(model)


def test_workers_tell_what_they_are() -> None:
    """One for each model, with its process, its state and its figures."""
    with managed() as models:
        assert models.workers() == ()
        first, second = models.load("one"), models.load("two")
        infos = models.workers()
        assert [info.models for info in infos] == [("one",), ("two",)]
        assert len({info.pid for info in infos} | {os.getpid()}) == 3
        until(lambda: all(info.memory_bytes > 1_000_000 for info in models.workers()), "they tell their memory")
        stream = ChatSession(first).stream("say 1\nwait 60")
        chunks = iter(stream)
        next(chunks)
        assert [(info.state, info.running) for info in models.workers()] == [("busy", 1), ("ready", 0)]
        assert all(info.uptime_s > 0 and info.restarts == 0 for info in infos)
        stream.cancel()
        second.close()
        assert [info.models for info in models.workers()] == [("one",)]


def test_models_in_this_process_have_no_workers() -> None:
    """Neither are there any before the first load."""
    with ModelManager("tests.by_hand:HandBackend", isolation="thread") as models:
        models.load("any")
        assert models.workers() == ()


def test_asyncio_uses_workers_the_same_way() -> None:
    """Load, stream, a crash and the next reply, in an event loop."""

    async def run() -> None:
        async with AsyncModelManager(hostile.PATH, on_crash="raise", timeouts=QUICK) as models:
            model = await models.load("ok")
            chat = AsyncChatSession(model)
            assert (await chat.send("say 5")).text == hostile.expected(5)
            (info,) = await models.workers()
            assert info.pid is not None
            with pytest.raises(Exception, match="SIGKILL"):
                await chat.send("kill SIGKILL")
            assert (await chat.send("say 5")).text == hostile.expected(5)

    asyncio.run(run())


def test_a_frozen_application_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its executable is no interpreter: run in a thread, or name one. With one named, it works."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with (
        nothing_left(),
        ModelManager(hostile.PATH) as models,
        pytest.raises(WorkerStartError, match=r"isolation='thread', or name .* ModelManager\(interpreter="),
    ):
        models.load("ok")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with managed(interpreter=sys.executable) as models:
        assert_answers(models.load("ok"))


@pytest.mark.parametrize(
    ("interpreter", "error", "says"),
    [
        ("/no/such/python", WorkerStartError, "/no/such/python"),
        ("/bin/false", WorkerCrashedError, "ended while starting: exit code 1"),
    ],
)
def test_an_interpreter_that_is_none_is_named(interpreter: str, error: type[Exception], says: str) -> None:
    """With what the system says."""
    with (
        nothing_left(),
        ModelManager(hostile.PATH, interpreter=interpreter) as models,
        pytest.raises(error, match=says),
    ):
        models.load("ok")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("tests.worker.hostile:Nothing", InvalidOptionError, "'Nothing' .* does not exist"),
        ("tests.worker.harness:QUICK", InvalidOptionError, "not a subclass of localllm.Backend"),
        ("no.such.module:Class", BackendUnavailableError, "'no.such.module' does not import"),
        ("tests.worker.no_such:Class", BackendUnavailableError, "No module named 'tests.worker.no_such'"),
        ("tests.worker.bad_import:Class", BackendUnavailableError, "RuntimeError: no GPU"),
        ("tests.worker.scripted:Picky", BackendUnavailableError, "cannot be made without arguments"),
    ],
)
def test_a_backend_that_cannot_be_had_is_said_by_the_worker(name: str, error: type[Exception], says: str) -> None:
    """By the constructor, where that is known without importing it, or else by the first load."""
    with nothing_left(), pytest.raises(error, match=says), ModelManager(name) as models:
        models.load("any")


def test_what_a_backend_logs_arrives_under_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """Ours as it is, others below `localllm.worker`; and raw lines of stderr at DEBUG only."""
    caplog.set_level(logging.DEBUG, "localllm")
    with managed() as models:
        ask(models.load("ok"), "mutter a raw line", "log localllm.llama 30 native words", "log torch 40 other words")
    found = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert ("localllm.worker", "DEBUG", "a raw line") in found
    assert ("localllm.worker", "DEBUG", "a raw line on stdout") in found
    assert ("localllm.llama", "WARNING", "native words") in found
    assert ("localllm.worker.torch", "ERROR", "other words") in found


def test_prompts_and_replies_are_not_logged_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Not even when the worker crashes over them."""
    caplog.set_level(logging.INFO)
    with managed() as models:
        model = models.load("ok")
        with pytest.raises(Exception, match="SIGKILL"):
            ask(model, "mutter my secret", "say 3", "kill SIGKILL")
    assert "secret" not in caplog.text
    assert "0 1 2" not in caplog.text


def test_what_is_too_long_for_a_frame_fails_alone() -> None:
    """A prompt of 70 MB ends with an error; the next one is answered."""
    with managed() as models:
        model = models.load("ok")
        with pytest.raises(ValueError, match="cannot be sent to the worker"):
            ask(model, "say 1\n" + "x" * (70 << 20))
        with pytest.raises(ValueError, match="cannot be sent to the worker"):
            model.tokenize("x" * (70 << 20))
        assert_answers(model)
        assert models.workers()[0].restarts == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "1"])
def test_a_memory_limit_is_a_number_of_bytes(limit: object) -> None:
    """Said by the constructor."""
    with pytest.raises(InvalidOptionError, match="memory_limit_bytes must be an integer from 1"):
        ModelManager(hostile.PATH, memory_limit_bytes=limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "value"), [("on_crash", "retry"), ("timeouts", 5), ("timeouts", None)])
def test_options_of_workers_are_checked(option: str, value: object) -> None:
    """By the constructor, by name."""
    with pytest.raises(InvalidOptionError, match=f"{option} must be"):
        ModelManager(hostile.PATH, **{option: value})  # type: ignore[arg-type]


def test_what_is_run_by_hand_says_what_it_is() -> None:
    """A terminal is no parent."""
    primary, secondary = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "localllm.backends.worker"],
            stdin=secondary,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(primary)
        os.close(secondary)
    assert done.returncode == 1
    assert "started by localllm itself" in done.stderr


@pytest.mark.parametrize("data", [b"\0\0\0\x05hello", b"\xff\xff\xff\xff", b"\0\0\0\x09\x81\xa2is\xa5Close"])
def test_a_worker_ends_when_its_parent_speaks_another_language(data: bytes) -> None:
    """With an exit code and a word on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "localllm.backends.worker"], input=data, capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 76
    assert b"localllm worker: malformed message" in done.stderr


def test_the_limits_are_a_users_to_set() -> None:
    """And their defaults are there."""
    assert Timeouts().heartbeat_s == 5.0
    assert processes.activity(os.getpid()) is not None
    assert processes.activity(2**30) is None

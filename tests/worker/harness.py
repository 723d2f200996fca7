"""What the tests of workers share: managers whose workers must be gone at the end, and waiting without sleeping."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from localllm import ChatSession, Model, ModelManager, Reply, Timeouts
from tests.worker import hostile

LIMIT_S = 15.0
"""What anything may take at most on a busy machine."""

QUICK = Timeouts(heartbeat_s=1.0, close_s=1.0)
"""Limits that a test can wait for."""


def until(holds: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> float:
    """Wait until something holds, and return how many seconds that took."""
    began_s = time.monotonic()
    pause = threading.Event()
    while not holds():
        took_s = time.monotonic() - began_s
        assert took_s < limit_s, f"not within {limit_s} s: {what}"
        pause.wait(0.002)
    return time.monotonic() - began_s


def is_gone(pid: int) -> bool:
    """Whether there is no such process any more, not even as a zombie."""
    return not Path(f"/proc/{pid}").exists()


def has_ended(pid: int) -> bool:
    """Whether a process has ended; one that is not our child may be left to another as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def worker_pid(models: ModelManager) -> int:
    """Return the number of the one worker that runs."""
    (info,) = models.workers()
    assert info.pid is not None
    return info.pid


def kill(models: ModelManager, name: str) -> int:
    """Send a signal to the one worker that runs, and return its number."""
    pid = worker_pid(models)
    os.kill(pid, signal.Signals[name])
    return pid


def ask(model: Model, *commands: str) -> Reply:
    """Give the model commands, and return its reply."""
    return ChatSession(model).send("\n".join(commands))


def assert_answers(model: Model) -> None:
    """The next request is answered as if nothing had happened."""
    assert ask(model, "say 3").text == hostile.expected(3)


@contextmanager
def nothing_left() -> Iterator[None]:
    """No process, thread or descriptor that the block made is left after it."""
    threads, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    children = _children()
    yield
    until(lambda: set(threading.enumerate()) <= threads, f"threads end: {set(threading.enumerate()) - threads}")
    until(lambda: _children() <= children, "child processes are gone")
    until(lambda: len(os.listdir("/proc/self/fd")) <= files, "descriptors are closed")


@contextmanager
def managed(**options: object) -> Iterator[ModelManager]:
    """A manager of hostile models in workers, after which nothing is left."""
    with nothing_left(), ModelManager(hostile.PATH, **options) as models:  # type: ignore[arg-type]
        yield models


def _children() -> set[str]:
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(OSError):  # the thread has ended since
            found.update(Path(f"/proc/self/task/{task}/children").read_text().split())
    return found

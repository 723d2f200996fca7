"""A backend that does what its prompt says, however bad: loaded by import path into workers, never into the tests.

The last message is commands, one a line. A reference such as "load:kill SIGSEGV" does a command while the model is
loaded, "close:..." while it is closed, "tokenize:..." when tokens are asked for; any other one does nothing.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from localllm.backends.base import GenerateRequest, ModelSpec, ProgressCallback
from localllm.backends.simple import Pause, Piece, SimpleBackend, SimpleModel
from localllm.errors import BackendError

PATH = "tests.worker.hostile:HostileBackend"

STEP_S = 0.004
"""Seconds between every eight pieces of a reply to "slow"."""


class HostileBackend(SimpleBackend):
    """Obeys."""

    name = "hostile"

    def open(self, spec: ModelSpec) -> SimpleModel:
        _at(spec.ref, "load")
        return HostileModel(spec)

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> SimpleModel:
        if spec.ref.startswith("progress"):
            for _ in range(1000):
                super().load(ModelSpec(ref="told"), on_progress).close()
        return super().load(spec, on_progress)


class HostileModel(SimpleModel):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._ref = spec.ref

    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        for line in request.messages[-1].content.splitlines():
            yield from self._obey(*line.split())

    def tokenize(self, text: str) -> tuple[int, ...]:
        _at(self._ref, "tokenize")
        return super().tokenize(text)

    def free(self) -> None:
        _at(self._ref, "close")

    def _obey(self, command: str, *arguments: str) -> Iterator[Piece]:
        match command, *arguments:
            case ["say", count]:
                yield from (f"{number} " for number in range(int(count)))
            case ["slow", count]:
                for number in range(int(count)):
                    if number % 8 == 0:
                        yield Pause(self.clock.now() + STEP_S)
                    yield f"{number} "
            case ["wait", seconds]:
                yield Pause(self.clock.now() + float(seconds))
            case ["environment", name]:
                yield os.environ.get(name, "")
            case ["surrogate"]:
                yield "\udc80"
            case _:
                do(command, *arguments)


def do(command: str, *arguments: str) -> None:
    """Do something bad."""
    match command, *arguments:
        case ["kill", name]:
            sys.stderr.flush()
            os.kill(os.getpid(), signal.Signals[name])
            threading.Event().wait()
        case ["exit", code]:
            os._exit(int(code))
        case ["hang"]:
            threading.Event().wait()
        case ["hog", seconds]:  # computes, and keeps the GIL: what a bad extension module does
            _hog(float(seconds))
        case ["busy", seconds]:  # computes for long, as native code does, with the GIL free
            threading.Event().wait(float(seconds))
        case ["raise"]:
            raise ValueError("as you wish")
        case ["refuse"]:
            raise BackendError("as you wish")
        case ["shout", count]:
            for number in range(int(count)):
                print(f"line {number} " + "x" * 200, file=sys.stderr)
                print(f"out {number}")
        case ["mutter", *words]:
            os.write(2, (" ".join(words) + "\n").encode())
            os.write(1, (" ".join(words) + " on stdout\n").encode())
        case ["log", name, level, *words]:
            logging.getLogger(name).log(int(level), " ".join(words))
        case ["garbage"]:
            os.write(_pipe(), b"\x00\x00\x00\x05hello")
        case ["half"]:
            os.write(_pipe(), b"\x00\x00\x01\x00half")
            os.kill(os.getpid(), signal.SIGKILL)
        case ["giant"]:
            os.write(_pipe(), b"\xff\xff\xff\xff" + b"x" * 1000)
        case ["shut"]:
            os.close(_pipe())
            threading.Event().wait()
        case ["eat"]:
            blocks = [bytearray(1 << 20) for _ in range(100_000)]
            raise ValueError(f"there was memory for {len(blocks)} MiB")
        case ["fork", seconds]:  # a process that outlives this one, and holds what it inherits
            if os.fork() == 0:
                threading.Event().wait(float(seconds))
                os._exit(0)
        case _:
            raise ValueError(f"no such command: {command} {arguments}")


def expected(count: int) -> str:
    """Return the reply to "say" or "slow"."""
    return "".join(f"{number} " for number in range(count))


def _at(ref: str, stage: str) -> None:
    prefix, _, command = ref.partition(":")
    if prefix == stage:
        do(*command.split())


def _pipe() -> int:
    """Return the worker's own pipe to its parent, which no decent backend looks for."""
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        fd = int(name)
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
            writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_WRONLY
        except OSError:
            continue
        if fd > 2 and is_pipe and writable:
            return fd
    raise ValueError("no pipe")


def _hog(seconds: float) -> None:
    """Compute in one call of C code, which keeps the GIL."""
    count = 1_000_000
    began_s = time.perf_counter()
    sum(itertools.repeat(1, count))
    took_s = time.perf_counter() - began_s
    sum(itertools.repeat(1, int(count * seconds / took_s)))

"""The worker's process: its threads, and the pipes to the parent.

A reader that does nothing else, so that the parent's end is noticed at once; a writer, which may wait for a slow
parent, for what the backend's thread does not send itself; the main thread for starting, loading and questions; one
for requests; and one for heartbeats. What the backend does, however long, holds up none of the others, unless it keeps
the GIL.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NoReturn, TypeAlias

from localllm.backends.worker.codec import CodecError, child_codec
from localllm.backends.worker.failures import printable
from localllm.backends.worker.frames import FrameError, FrameReader
from localllm.backends.worker.host import Host
from localllm.backends.worker.limits import no_core_dumps, own_memory_bytes, set_memory_limit
from localllm.backends.worker.messages import (
    EXIT_MEMORY,
    EXIT_PROTOCOL,
    Ask,
    Beat,
    Cancel,
    Close,
    Generate,
    Load,
    Logged,
    Start,
    ToChild,
)
from localllm.backends.worker.outbox import Outbox
from localllm.backends.worker.pipes import read_some
from localllm.backends.worker.sender import Sender

_Requests: TypeAlias = SimpleQueue[Generate | Cancel | None]


def run(in_fd: int, out_fd: int) -> NoReturn:
    """Serve the parent at the other end of these pipes; leaves the process."""
    faulthandler.enable(sys.stderr, all_threads=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the application, which then decides
    no_core_dumps()
    if hasattr(os, "register_at_fork"):
        # A process that the backend forks must not keep the pipes open when the worker is gone.
        os.register_at_fork(after_in_child=lambda: _close(in_fd, out_fd))
    Child(in_fd, out_fd, leave=os._exit).run()
    os._exit(0)  # not a return: threads of native code need not survive the interpreter's end


class Child:
    """Serves a parent over two pipes.

    Args:
        in_fd: Where its messages come from.
        out_fd: Where messages to it go.
        leave: Ends the process with an exit code.
    """

    def __init__(self, in_fd: int, out_fd: int, leave: Callable[[int], object]) -> None:
        self._in_fd = in_fd
        self._leave = leave
        self._outbox = Outbox()
        self._sender = Sender(self._outbox, out_fd, self._refuse)
        self._host = Host(self._outbox, self._send)
        self._work: SimpleQueue[ToChild | None] = SimpleQueue()
        self._requests: _Requests = SimpleQueue()
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until the parent closes, or a start fails."""
        child_codec()  # here, where a failure ends the process, and not in a thread alone
        writer = threading.Thread(target=self._write, name="worker-write", daemon=True)
        writer.start()
        threading.Thread(target=self._read, name="worker-read", daemon=True).start()
        self._serve()
        self._ended.set()
        self._requests.put(None)
        self._outbox.close()
        writer.join()

    def _serve(self) -> None:
        start = self._work.get()
        if not isinstance(start, Start):
            self._refuse(f"the first message must be Start, and was {type(start).__name__}")
            return
        _prepare(start, self._outbox)
        threading.Thread(target=self._beat, args=(start.beat_s,), name="worker-beat", daemon=True).start()
        if not self._host.start(start):
            return
        threading.Thread(target=self._serve_requests, name="worker-requests", daemon=True).start()
        while (message := self._work.get()) is not None:
            match message:
                case Load():
                    self._host.load(message)
                    self._say_how_it_is()
                case Ask():
                    self._host.ask(message)
                case Close():
                    self._host.close()
                    return
                case _:
                    self._refuse(f"{type(message).__name__} came at the wrong time")

    def _serve_requests(self) -> None:
        while (message := self._requests.get()) is not None:
            match message:
                case Generate():
                    self._host.generate(message)
                case Cancel():
                    self._host.cancel(message)

    def _read(self) -> None:
        frames, codec = FrameReader(), child_codec()
        while True:
            data = read_some(self._in_fd)
            if not data:  # the parent has ended, however it did, and nobody is left to serve
                self._go(0)
                return
            try:
                for message in [codec.decode(payload) for payload in frames.feed(data)]:
                    self._sort(message)
            except (FrameError, CodecError) as exc:
                self._refuse(str(exc))
                return

    def _sort(self, message: ToChild) -> None:
        if isinstance(message, (Generate, Cancel)):
            self._requests.put(message)
        else:
            self._work.put(message)

    def _refuse(self, why: str) -> None:
        """End the process: with a parent that speaks another language there is nothing to say."""
        os.write(2, f"localllm worker: malformed message: {printable(why)}\n".encode())
        self._go(EXIT_PROTOCOL)

    def _go(self, code: int) -> None:
        self._leave(code)
        self._work.put(None)  # where leaving is not the process's end, the main thread ends, and the others with it

    def _write(self) -> None:
        try:
            if not self._sender.run():
                self._go(0)
        except MemoryError:
            self._go(EXIT_MEMORY)

    def _send(self) -> None:
        try:
            self._sender.send()
        except MemoryError:  # what was to be sent is lost, so that nothing may follow it
            self._go(EXIT_MEMORY)

    def _say_how_it_is(self) -> None:
        self._outbox.put(Beat(marks=self._outbox.marks, memory_bytes=own_memory_bytes()))

    def _beat(self, beat_s: float) -> None:
        parent = os.getppid()
        try:
            self._say_how_it_is()
            while not self._ended.wait(beat_s):
                self._say_how_it_is()
                # The pipe tells of the parent's end, too, unless something it forked holds the pipe open.
                if os.getppid() != parent:
                    self._go(0)
        except MemoryError:
            self._go(EXIT_MEMORY)


class _Forwarder(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, formatted."""
        text = printable(self.format(record))[:_MAX_LOG_CHARS]
        self._outbox.put_log(Logged(logger=printable(record.name), level=record.levelno, text=text))


_MAX_LOG_CHARS = 10_000


def _prepare(start: Start, outbox: Outbox) -> None:
    """Make this process what `start` asks for, before the backend is imported."""
    sys.path[:] = start.sys_path or sys.path
    if start.python_path is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = start.python_path
    root = logging.getLogger()
    root.setLevel(start.log_level)
    root.addHandler(_Forwarder(outbox))
    if start.memory_limit_bytes is not None:
        set_memory_limit(start.memory_limit_bytes)


def _close(*fds: int) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue

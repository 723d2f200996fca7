"""A worker process and the two threads that speak to it: messages in, messages out."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import Protocol

from localllm.backends.worker.codec import Codec, CodecError, child_codec, parent_codec
from localllm.backends.worker.frames import FrameError, FrameReader, framed
from localllm.backends.worker.messages import ToChild, ToParent
from localllm.backends.worker.pipes import read_some, write_all
from localllm.backends.worker.process import WorkerProcess
from localllm.errors import InvalidPromptError, LocalLLMError, WorkerProtocolError


class Receiver(Protocol):
    """Told what comes out of a channel, on the channel's threads."""

    def on_message(self, message: ToParent) -> None:
        """A message has come; on the reader's thread."""

    def on_refused(self, message: ToChild, error: LocalLLMError) -> None:
        """A message cannot be sent; on the writer's thread."""

    def on_broken(self, error: LocalLLMError) -> None:
        """What has come is no message, or nothing can be sent at all; on a thread of the channel's, before `on_end`."""

    def on_end(self, code: int, lines: tuple[str, ...], pending_bytes: int) -> None:
        """The process has ended; on the reader's thread, the last call.

        Args:
            code: Its exit code, or minus the number of a signal.
            lines: The last lines that it wrote to its stderr.
            pending_bytes: Bytes of a frame that never became whole.
        """


class Channel:
    """A worker process. Safe to use from any thread; `post` and `kill` return at once.

    Args:
        interpreter: The Python to run; None is the one that runs this.
        receiver: Told what comes.

    Raises:
        WorkerStartError: It cannot be started.
    """

    def __init__(self, interpreter: str | None, receiver: Receiver) -> None:
        self._process = WorkerProcess(interpreter)
        self._receiver = receiver
        self._outbound: SimpleQueue[ToChild | None] = SimpleQueue()
        self._heard_s: float | None = None
        self._handing_over = False
        self._reader = threading.Thread(target=self._read, name="localllm-worker-read", daemon=True)
        self._writer = threading.Thread(target=self._write, name="localllm-worker-write", daemon=True)

    def open(self) -> None:
        """Begin to read and write."""
        self._writer.start()
        self._reader.start()  # the last: it joins the other, perhaps at once

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def heard_s(self) -> float | None:
        """When something last came from the process, None before; now, while the reader is busy and hears nothing."""
        return time.monotonic() if self._handing_over else self._heard_s

    def post(self, message: ToChild) -> None:
        """Send a message; takes no lock, and may be called from a finalizer."""
        self._outbound.put(message)

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()

    def on_own_thread(self) -> bool:
        """Whether this is a thread of the channel's, which must not wait for the process's end."""
        return threading.current_thread() in (self._reader, self._writer)

    def _read(self) -> None:
        frames = FrameReader()
        try:
            codec = parent_codec()
            while data := read_some(self._process.out_fd):
                self._handing_over = True
                for payload in frames.feed(data):
                    self._receiver.on_message(codec.decode(payload))
                self._heard_s = time.monotonic()
                self._handing_over = False
        except (FrameError, CodecError) as exc:
            self._receiver.on_broken(WorkerProtocolError(f"the worker (pid {self.pid}) sent garbage: {exc}"))
        except Exception as exc:  # noqa: BLE001  # without its reader a worker is of no use
            error = WorkerProtocolError(f"what the worker (pid {self.pid}) sent could not be handed over: {exc!r}")
            error.__cause__ = exc
            self._receiver.on_broken(error)
        self._finish(frames.pending_bytes)

    def _finish(self, pending_bytes: int) -> None:
        """Bury the process: its pipe is closed, so it is at its end, or as good as."""
        self._process.kill()
        code = self._process.wait()
        self._outbound.put(None)
        self._writer.join()
        self._process.close()
        self._receiver.on_end(code, self._process.last_lines, pending_bytes)

    def _write(self) -> None:
        try:
            self._send_all(child_codec())
        except Exception as exc:  # noqa: BLE001  # without its writer a worker is of no use
            error = WorkerProtocolError(f"nothing can be sent to the worker (pid {self.pid}): {exc!r}")
            error.__cause__ = exc
            self._receiver.on_broken(error)

    def _send_all(self, codec: Codec[ToChild]) -> None:
        while (message := self._outbound.get()) is not None:
            try:
                frame = framed(codec.encode(message))
            except (CodecError, FrameError) as exc:
                self._receiver.on_refused(message, InvalidPromptError(f"this cannot be sent to the worker: {exc}"))
                continue
            write_all(self._process.in_fd, frame)  # of a worker that is gone the reader knows more

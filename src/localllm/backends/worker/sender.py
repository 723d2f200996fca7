"""Messages into the pipe to the parent: by a thread that may wait for it, or at once where that takes no waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable

from attrs import evolve

from localllm.backends.worker.codec import Codec, CodecError, parent_codec
from localllm.backends.worker.frames import FrameError, framed
from localllm.backends.worker.messages import EventOf, Events, Failed, Failure, ToParent
from localllm.backends.worker.outbox import Outbox
from localllm.backends.worker.pipes import AT_ONCE_BYTES, has_room, write_all
from localllm.errors import BackendError
from localllm.types import GenerationEnded


class Sender:
    """Writes what comes into an outbox to a pipe.

    Whoever pushes events step by step may send them itself. To wake a thread for it costs several times as much, and
    while a model computes with all cores that comes off its rate.

    Args:
        outbox: What to send.
        fd: The pipe; nobody else writes to it.
        refuse: Told why something cannot be sent at all.

    A MemoryError from `run` or `send` means that messages are lost.
    """

    def __init__(self, outbox: Outbox, fd: int, refuse: Callable[[str], object]) -> None:
        self._outbox = outbox
        self._fd = fd
        self._refuse = refuse
        self._codec = parent_codec()
        self._sending = threading.Lock()
        self._rest = b""  # of what was taken from the outbox; the thread's to write

    def run(self) -> bool:
        """Send until the outbox is closed and empty; False if nobody reads any more."""
        is_open = True
        while is_open:
            is_open = self._outbox.wait()
            with self._sending:
                data, self._rest = self._rest + self._taken(), b""
                if not write_all(self._fd, data):
                    return False
        return True

    def send(self) -> None:
        """Send what the calling thread has put in, at once or else soon; from now on nobody else is woken for it."""
        self._outbox.leave_to_this_thread()
        if not self._outbox.empty and not self._send_now():
            self._outbox.wake()

    def _send_now(self) -> bool:
        """Send everything, if that takes no waiting; whether it was sent."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self._rest or not has_room(self._fd):
                return False
            data = self._taken()
            if len(data) > AT_ONCE_BYTES or not write_all(self._fd, data):
                self._rest = data
                return False
            return True
        finally:
            self._sending.release()

    def _taken(self) -> bytes:
        """Take what is in the outbox, as frames."""
        try:
            return b"".join([frame for message in self._outbox.take() for frame in encoded(self._codec, message)])
        except (CodecError, FrameError) as exc:  # such as facts of a model that are not what they should be
            self._refuse(str(exc))
            return b""


def encoded(codec: Codec[ToParent], message: ToParent) -> list[bytes]:
    """Return `message` in frames: in one, if it is not too long and can be sent at all."""
    try:
        return [framed(codec.encode(message))]
    except (CodecError, FrameError) as exc:
        match message:
            case Events(items=(item,)):
                error = BackendError(f"the backend sent what cannot be passed on: {exc}")
                return [framed(codec.encode(Events((EventOf(item.id, GenerationEnded("error", error=error)),))))]
            case Events(items=items):
                half = len(items) // 2
                halves = (evolve(message, items=items[:half]), evolve(message, items=items[half:]))
                return [frame for part in halves for frame in encoded(codec, part)]
            case _ if (number := getattr(message, "id", None)) is not None and not isinstance(message, Failed):
                failure = Failure(kind="BackendError", message=f"the backend's answer cannot be passed on: {exc}")
                return [framed(codec.encode(Failed(int(number), failure)))]
            case _:
                raise

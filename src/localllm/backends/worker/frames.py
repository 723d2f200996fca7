"""Frames: how messages are told apart on a pipe. Four bytes of length, the highest first, then so many bytes."""

from __future__ import annotations

FRAME_LIMIT = 64 << 20
"""Bytes that a frame may hold: many times the longest prompt, and little enough to keep in memory."""

_HEADER = 4


class FrameError(ValueError):
    """The bytes on a pipe are no frames, or a message is longer than a frame may be."""


def framed(payload: bytes, limit: int = FRAME_LIMIT) -> bytes:
    """Return `payload` as a frame.

    Raises:
        FrameError: It is empty, or longer than `limit` bytes.
    """
    if not 0 < len(payload) <= limit:
        raise FrameError(f"a message of {len(payload)} bytes; a frame holds 1 to {limit}")
    return len(payload).to_bytes(_HEADER, "big") + payload


class FrameReader:
    """Cuts a stream of bytes into the payloads of its frames.

    Memory is taken for bytes that have come, never for those that a header promises.

    Args:
        limit: Bytes that a frame may hold.
    """

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the payloads that they complete, in order.

        Raises:
            FrameError: A header promises an empty frame, or one longer than the limit: these are no frames.
        """
        length = int.from_bytes(data[:_HEADER], "big")
        if not self._pending and len(data) == _HEADER + length and 0 < length <= self._limit:
            return [data[_HEADER:]]  # one frame and nothing else, as nearly always
        self._pending += data
        payloads: list[bytes] = []
        start = 0
        while (end := self._end_of_frame(start)) is not None:
            payloads.append(bytes(self._pending[start + _HEADER : end]))
            start = end
        del self._pending[:start]
        return payloads

    def _end_of_frame(self, start: int) -> int | None:
        """Return where the frame at `start` ends, or None if it is not whole yet."""
        if len(self._pending) - start < _HEADER:
            return None
        length = int.from_bytes(self._pending[start : start + _HEADER], "big")
        if not 0 < length <= self._limit:
            raise FrameError(f"a frame of {length} bytes was announced; a frame holds 1 to {self._limit}")
        end = start + _HEADER + length
        return end if end <= len(self._pending) else None

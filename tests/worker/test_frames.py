"""Frames: what goes in comes out, however the bytes are cut, and nothing is taken for granted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.worker.frames import FRAME_LIMIT, FrameError, FrameReader, framed

PAYLOADS = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(PAYLOADS, st.lists(st.integers(0, 40)))
def test_frames_round_trip_however_the_pipe_cuts_them(payloads: list[bytes], sizes: list[int]) -> None:
    """Payloads come out whole and in order, whatever the portions of the bytes."""
    reader = FrameReader()
    data = b"".join(framed(payload) for payload in payloads)
    assert [payload for piece in _cut(data, sizes) for payload in reader.feed(piece)] == payloads
    assert reader.pending_bytes == 0


@given(st.binary(max_size=400), st.lists(st.integers(0, 40)))
def test_random_bytes_never_take_more_memory_than_there_are(data: bytes, sizes: list[int]) -> None:
    """They are frames, or an unfinished one, or an error; what is kept is never more than what came."""
    reader, fed = FrameReader(limit=64), 0
    try:
        for piece in _cut(data, sizes):
            fed += len(piece)
            assert all(0 < len(payload) <= 64 for payload in reader.feed(piece))
            assert reader.pending_bytes <= min(fed, 64 + 4)
    except FrameError:
        pass


@pytest.mark.parametrize("header", [b"\xff\xff\xff\xff", (FRAME_LIMIT + 1).to_bytes(4, "big"), b"\0\0\0\0"])
def test_a_header_that_cannot_be_is_refused_at_once(header: bytes) -> None:
    """A frame of 4 GiB, one just over the limit, an empty one: before any of it has come."""
    with pytest.raises(FrameError, match="was announced"):
        FrameReader().feed(header)


@pytest.mark.parametrize("payload", [b"", b"12345"])
def test_a_message_that_fits_no_frame_is_refused(payload: bytes) -> None:
    """By who sends it."""
    with pytest.raises(FrameError, match=f"a message of {len(payload)} bytes"):
        framed(payload, limit=4)

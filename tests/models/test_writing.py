"""A file is what was given to be written, whichever way it went; and its hash is that of the file."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.models.hashing import RunningHash
from localllm.models.writing import BLOCK_BYTES, FileWriter

BLOCK = bytes(range(256)) * (BLOCK_BYTES // 256)


class Clock:
    """A second passes with each look."""

    def __init__(self, step_s: float) -> None:
        self._now_s = 0.0
        self._step_s = step_s

    def __call__(self) -> float:
        """Return the time."""
        self._now_s += self._step_s
        return self._now_s


def pages(data: bytes) -> memoryview:
    """Return a copy that begins at a page."""
    memory = mmap.mmap(-1, max(len(data), 1))
    memory[: len(data)] = data
    return memoryview(memory)[: len(data)]


def takes_direct(folder: Path) -> bool:
    """Whether files of the folder can be written past the page cache."""
    path = folder / "tried"
    path.touch()
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
        return True
    return False


@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 3).map(lambda count: count * BLOCK_BYTES), st.integers(0, 9000)), max_size=8
    ),
    start=st.one_of(st.just(0), st.just(BLOCK_BYTES), st.integers(0, 5000)),
    fast=st.booleans(),
)
def test_a_file_is_what_was_given(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], start: int, fast: bool
) -> None:
    """From where it was to begin, in order, past the page cache or not; each piece is told when it is written."""
    path = tmp_path_factory.mktemp("written") / "file"
    before = b"x" * start
    path.write_bytes(before)
    parts = [os.urandom(size) for size in sizes]
    told = list[int]()
    with FileWriter(path, start, now=Clock(0.0 if fast else 1.0), tried_bytes=BLOCK_BYTES) as writer:
        for number, part in enumerate(parts):
            writer.put(pages(part), partial(told.append, number))
    assert path.read_bytes() == before + b"".join(parts)
    assert told == list(range(len(parts)))
    assert fast or not writer.direct_bytes


def test_what_comes_fast_goes_past_the_page_cache(tmp_path: Path) -> None:
    """Whole blocks of it, once the rate is known; where the file system takes that."""
    path = tmp_path / "file"
    path.touch()
    with FileWriter(path, 0, now=Clock(1e-6), tried_bytes=2 * BLOCK_BYTES) as writer:
        for part in (BLOCK, BLOCK, BLOCK, BLOCK, b"end"):
            writer.put(pages(part), lambda: None)
    assert writer.direct_bytes == (2 * BLOCK_BYTES if takes_direct(tmp_path) else 0)
    assert path.read_bytes() == 4 * BLOCK + b"end"


def test_a_disk_that_is_full_is_told_and_nobody_waits_for_ever() -> None:
    """To whoever gives more, or at the end; what was given is told to be done with, written or not."""
    told = list[int]()
    with pytest.raises(OSError, match="No space") as caught, FileWriter(Path("/dev/full"), 0) as writer:
        for number in range(3):
            with suppress(OSError):
                writer.put(pages(BLOCK), partial(told.append, number))
    assert caught.value.errno == errno.ENOSPC
    assert told == [0, 1, 2]


def test_a_mistake_of_the_writer_is_told_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    """Whatever it is: who gives more must get its buffers back."""
    path = tmp_path / "file"
    path.touch()
    told = list[int]()
    clock = iter([0.0])
    with pytest.raises(StopIteration), FileWriter(path, 0, now=lambda: next(clock), tried_bytes=0) as writer:
        for number in range(3):
            with suppress(StopIteration):
                writer.put(pages(BLOCK), partial(told.append, number))
    assert told == [0, 1, 2]
    assert path.read_bytes() == b""


@given(pieces=st.lists(st.integers(1, 300_000), max_size=12), start=st.integers(0, 9000), again=st.booleans())
def test_the_hash_is_that_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int], start: int, again: bool
) -> None:
    """Whatever the pieces, from wherever it goes on, and if a part of it is written a second time."""
    path = tmp_path_factory.mktemp("hashed") / "file"
    path.write_bytes(os.urandom(start))
    with RunningHash() as running:
        running.catch_up(path, start, lambda done: None)
        fill(running, path, start, pieces)
        if again:
            os.truncate(path, start)
            running.catch_up(path, start, lambda done: None)
            fill(running, path, start, pieces)
        data = path.read_bytes()
        assert running.done_bytes == len(data) == start + sum(pieces)
        assert running.hexdigest() == hashlib.sha256(data).hexdigest()


def fill(running: RunningHash, path: Path, start: int, pieces: list[int]) -> None:
    """Give pieces of so many bytes."""
    with running.writing(path, start):
        for left in pieces:
            while left:
                room = running.room()
                count = min(left, len(room))
                room[:count] = os.urandom(count)
                running.filled(count)
                left -= count

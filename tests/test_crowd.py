"""Many users of one model: nobody gets another's text, nothing is lost, memory stays. Full counts in `make soak`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[1]
MEGABYTE = 1 << 20


@frozen
class Figures:
    """What came of a run of `crowd_rounds.py`."""

    done: dict[str, int]
    mistakes: list[str]
    growth: int
    left: int
    requests: int


def run(threads: int, chats: int) -> Figures:
    """Run a crowd in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowd_rounds", str(threads), str(chats)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return Figures(**json.loads(done.stdout))


def test_a_small_crowd_gets_the_texts_that_each_would_get_alone() -> None:
    """16 threads, with cancels, forks and async users: no cross-talk, no error, nothing left running."""
    figures = run(16, 1)
    assert figures.mistakes == []
    assert figures.left == 0


@pytest.mark.soak
def test_a_crowd_gets_the_texts_that_each_would_get_alone_in_flat_memory() -> None:
    """16 threads with 100 chats each: memory within 3 MB after warm-up, under 1 KB a request."""
    figures = run(16, 100)
    print(f"\n16 threads x 100 chats: {figures.requests:,} requests, {figures.growth:+,} bytes, {figures.done}")
    assert figures.mistakes == []
    assert figures.left == 0
    assert figures.growth < min(3 * MEGABYTE, 1024 * figures.requests)

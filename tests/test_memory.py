"""Memory is given back, and the interpreter exits in silence. The same code runs in `make soak` with full counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory_rounds.py")
MEGABYTE = 1 << 20
ONE_HEAP = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""What is held is measured, and not what Python's and the C library's heaps keep of what was freed, one for each
thread: up to some tens of megabytes, another figure in each run."""


def run(cancels: int, loads: int) -> dict[str, int]:
    """Run the rounds in a process of their own and return what they left behind, in bytes."""
    done = subprocess.run(
        [sys.executable, "-P", str(SCRIPT), str(cancels), str(loads)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ONE_HEAP,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the interpreter exits in silence"
    growth: dict[str, int] = json.loads(done.stdout)
    return growth


def test_rounds_of_cancels_and_loads_leave_no_memory_behind() -> None:
    """20 cancelled requests, 3 loads, 3 times out of memory and back: within 3 MB."""
    growth = run(20, 3)
    assert growth["cancels"] < 3 * MEGABYTE
    assert growth["loads"] < 3 * MEGABYTE
    assert growth["unloads"] < 3 * MEGABYTE


@pytest.mark.soak
def test_a_thousand_cancels_and_fifty_loads_leave_no_memory_behind() -> None:
    """Within 3 MB, and under 1 KB a request; also if the model leaves and comes back under one handle."""
    growth = run(1000, 50)
    print(f"\n1,000 start-and-cancel rounds: {growth['cancels']:+,} bytes")
    print(f"50 load/close rounds: {growth['loads']:+,} bytes")
    print(f"50 unload/return rounds: {growth['unloads']:+,} bytes")
    assert growth["cancels"] < min(3 * MEGABYTE, 1000 * 1024)
    assert growth["loads"] < 3 * MEGABYTE
    assert growth["unloads"] < 3 * MEGABYTE


def test_an_application_that_forgets_to_close_exits_in_silence() -> None:
    """With a model loaded and a stream running, the interpreter ends without a word and without an error."""
    code = (
        "from localllm import ChatSession, ModelConfig, ModelManager\n"
        "model = ModelManager(isolation='thread').load('smollm2-135m', config=ModelConfig(n_ctx=256))\n"
        "stream = ChatSession(model).stream('Write a very long story.')\n"
        "next(stream)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

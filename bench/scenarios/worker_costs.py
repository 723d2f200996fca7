"""What a worker costs beside the model: its start, its protocol, a chunk's way, memory; and an event loop's lag."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Literal

from bench.systems.base import Setup, System
from bench.table import Figures

STARTS = 3
CHUNKS = 300
FRAMES = 2000
STREAMS = 8
_FOOTPRINT = """
import os, sys
from bench.memory import memory_of_tree
from localllm import ChatSession, ModelConfig, ModelManager
with ModelManager(isolation=sys.argv[1]) as models:
    model = models.load(sys.argv[2], config=ModelConfig(threads=int(sys.argv[3])))
    ChatSession(model).send("Say hello.", temperature=0, max_tokens=16)
    print(memory_of_tree(os.getpid()).pss_bytes)
"""


def worker_costs(system: System, round_: int) -> Figures:
    """A worker's start, the protocol by chunk, a chunk's way to its reader, and what memory it adds."""
    by_worker, by_thread = _way_s("process"), _way_s("thread")
    return {
        "start": statistics.median(_start_s() for _ in range(STARTS)),
        "protocol": _protocol_s() * 1e6,
        "way": by_worker * 1e6,
        "way_thread": by_thread * 1e6,
        "memory": (_footprint_bytes("process", system.setup) - _footprint_bytes("thread", system.setup)) / 2**20,
    }


def worker_lag(system: System, round_: int) -> Figures:
    """The p99 lag of an event loop that reads eight streams of a worker, less that beside an equal load elsewhere."""
    from bench.scenarios.loop_lag import extra_lag_ms

    setup = system.setup
    return {"lag": extra_lag_ms(setup.path, setup.threads, isolation="process", streams=STREAMS)}


def _start_s() -> float:
    """Return the seconds from nothing to a worker whose backend is imported and which has shaken hands."""
    from localllm.backends.worker.link import Launch, Link

    start_s = time.perf_counter()
    link = Link(Launch(backend="llama.cpp"))
    link.start()
    took_s = time.perf_counter() - start_s
    link.close()
    return took_s


def _protocol_s() -> float:
    """Return the seconds to write and read a chunk, of eight that a step of the engine puts into one frame."""
    from localllm.backends.worker.codec import parent_codec
    from localllm.backends.worker.frames import FrameReader, framed
    from localllm.backends.worker.messages import EventOf, Events
    from localllm.types import TextDelta

    codec, reader = parent_codec(), FrameReader()
    message = Events(tuple(EventOf(number, TextDelta(" lighthouse", token_ids=(28_000,))) for number in range(STREAMS)))
    start_s = time.perf_counter()
    for _ in range(FRAMES):
        (payload,) = reader.feed(framed(codec.encode(message)))
        codec.decode(payload)
    return (time.perf_counter() - start_s) / FRAMES / STREAMS


def _way_s(isolation: Literal["process", "thread"]) -> float:
    """Return the median of the seconds from a chunk's making to its reader, from one every two milliseconds."""
    from localllm import ChatSession, ModelManager

    with ModelManager("bench.stamps:StampBackend", isolation=isolation) as models:
        stream = ChatSession(models.load("stamps")).stream("What time is it?", max_tokens=CHUNKS)
        return statistics.median(time.monotonic_ns() - int(chunk.text) for chunk in stream) / 1e9


def _footprint_bytes(isolation: str, setup: Setup) -> int:
    """Return the memory (PSS) of a new application and its worker, if it has one, after a short chat."""
    command = [sys.executable, "-c", _FOOTPRINT, isolation, str(setup.path), str(setup.threads)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    return int(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)

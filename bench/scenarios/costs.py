"""Scenarios of what the system itself costs: memory, Python's time, a cancel, its import, an event loop's lag."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable

from attrs import define, field

from bench.memory import memory_of_tree
from bench.python_time import PythonTime
from bench.scenarios.base import long_chat, story
from bench.systems.base import System
from bench.table import Figures

STREAMS = (1, 8, 32)
STREAM_TOKENS = 64
CHATS, CHAT_TOKENS = 64, 4000


def memory(system: System, round_: int) -> Figures:
    """A short chat in a new process, the model's own context being the ceiling: memory of the tree of processes."""
    system.answer(story(f"{round_ + 2}"), 16)
    taken = memory_of_tree(os.getpid())
    return {"pss": taken.pss_bytes / 2**20, "anonymous": taken.anonymous_bytes / 2**20}


@define(eq=False)
class _Meter:
    """Reads two figures when the last of some streams has begun, and again when the first of them ends."""

    read: Callable[[], tuple[float, int]]
    count: int
    begun: int = 0
    start: tuple[float, int] | None = None
    end: tuple[float, int] | None = None
    lock: threading.Lock = field(factory=threading.Lock)

    def on_piece(self, pieces: int) -> bool:
        """Note a piece of one of the streams; all end together."""
        with self.lock:
            self.begun += pieces == 1
            if self.begun == self.count and self.start is None:
                self.start = self.read()
            if pieces >= STREAM_TOKENS and self.start is not None and self.end is None:
                self.end = self.read()
            return self.end is None


def lookup(system: System, round_: int) -> Figures:
    """A prompt is looked up among 64 chats of 4,000 tokens, in the context and in host memory."""
    return {"alike": _lookup_s(3900) * 1000, "unlike": _lookup_s(0) * 1000}


def _lookup_s(shared: int) -> float:
    """Return the median time of looking up chats that begin with so many common tokens."""
    from localllm.engine.cells import CellTable
    from localllm.engine.kv_cache import KvCache

    cache = KvCache(CellTable(CHATS * CHAT_TOKENS, CHATS), host_bytes=1 << 30)
    chats = [
        array("i", [*range(shared), *(shared + chat * CHAT_TOKENS + index for index in range(CHAT_TOKENS - shared))])
        for chat in range(CHATS)
    ]
    for tokens in chats:
        cache.table.append(cache.table.take(), tokens)
        while (block := cache.host.missing(tokens)) is not None:
            cache.host.saved(block, b"x")
    times_s: list[float] = []
    for tokens in chats:
        prompt = tokens + array("i", [7] * 20)
        start_s = time.perf_counter()
        found = cache.best(prompt, len(prompt) - 1)
        loads = cache.best_of_host(prompt, len(prompt) - 1, 0)
        times_s.append(time.perf_counter() - start_s)
        if found[1] != CHAT_TOKENS or loads[-1][2] != CHAT_TOKENS:
            raise RuntimeError("a prompt's own chat was not found")
    return statistics.median(times_s)


def overhead(system: System, round_: int) -> Figures:
    """Processor time of all Python threads outside llama.cpp, by token, while 1, 8 and 32 streams are read."""
    clock = PythonTime()
    system.answer(story("0"), 16)
    per_token = {count: _python_s(system, clock, count, round_) for count in STREAMS}
    figures = {f"us_{count}": value * 1e6 for count, value in per_token.items()}
    return figures | {"growth": max(per_token[count] for count in STREAMS[1:]) / per_token[STREAMS[0]]}


def _python_s(system: System, clock: PythonTime, count: int, round_: int) -> float:
    """Return the seconds of Python's time by token while `count` streams run."""
    meter = _Meter(lambda: (clock.total_s(), clock.sampled), count)

    def read(index: int) -> None:
        system.answer(story(f"{round_ + 2} {count} {index}"), 1000, on_piece=meter.on_piece, endless=True)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if meter.start is None or meter.end is None:
        raise RuntimeError(f"{count} streams never ran at once")
    return (meter.end[0] - meter.start[0]) / (meter.end[1] - meter.start[1])


def cancel(system: System, round_: int) -> Figures:
    """A cancel in the middle of a prefill of 1,000 tokens: until it has ended; the next request must work."""
    from bench.systems.own import LocalLLM
    from localllm import ChatSession, Message, PromptProgress

    if not isinstance(system, LocalLLM):
        raise TypeError("only localllm can cancel while it reads a prompt")
    opening = long_chat(1000, f"cancel {round_}")[0]
    stream = ChatSession(system.model, history=[Message.system(opening.text)]).stream("Say hello.", max_tokens=4)
    for event in stream.events():
        if isinstance(event, PromptProgress) and event.processed_tokens > 300:
            break
    start_s = time.perf_counter()
    reply = stream.reply
    cancelled_s = time.perf_counter() - start_s
    if reply.finish_reason != "cancelled":
        raise RuntimeError(f"the cancelled request ended as {reply.finish_reason!r}")
    if not system.answer(story("0"), 2).times_s:
        raise RuntimeError("the request after the cancelled one gave nothing")
    return {"ended": cancelled_s}


def import_time(system: System, round_: int) -> Figures:
    """`import localllm` in a new interpreter, less an empty start."""
    return {"import": (_start_s("import localllm") - _start_s("pass")) * 1000}


def loop_lag(system: System, round_: int) -> Figures:
    """The p99 lag of an event loop beside a model in this process, less that beside one in another."""
    from bench.scenarios.loop_lag import extra_lag_ms

    return {"lag": extra_lag_ms(system.setup.path, system.setup.threads)}


def _start_s(code: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start_s

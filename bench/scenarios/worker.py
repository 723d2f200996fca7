"""Scenarios of the worker beside a thread of the same process, in pairs: what isolation costs, and what it is for."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from bench.scenarios.base import ASSISTANT, story
from bench.systems.base import System, Turn
from bench.table import Figures

if TYPE_CHECKING:
    from bench.systems.own import LocalLLM

_T = TypeVar("_T")

PAIRS = 8
FIRSTS = 12
CHATS = 8
RATE_TOKENS = 64
BURST_TOKENS = 32


def worker(system: System, round_: int) -> Figures:
    """The same in a thread and in a worker, in turns: one stream, its first token, eight streams."""
    thread, isolated = _pair(system)
    rates = in_turns(thread, isolated, lambda each, salt: _rate(each, f"{round_} {salt}"), PAIRS)
    firsts = in_turns(thread, isolated, lambda each, salt: _cached_first_s(each), FIRSTS)
    bursts = in_turns(thread, isolated, lambda each, salt: _burst(each, f"{round_} {salt}"), PAIRS)
    return {
        "decode": statistics.median(theirs / ours for ours, theirs in rates),
        "first": statistics.median(theirs - ours for ours, theirs in firsts) * 1000,
        "eight": statistics.median(theirs[0] / ours[0] for ours, theirs in bursts),
        "eight_first": statistics.median(theirs[1] / ours[1] for ours, theirs in bursts),
    }


def busy_host(system: System, round_: int) -> Figures:
    """A stream while the application computes in a Python loop: its rate by the undisturbed one, in both."""
    thread, isolated = _pair(system)
    figures = {}
    for name, each in (("worker", isolated), ("thread", thread)):
        quiet = _rate(each, f"{round_} quiet")
        with busy_loop():
            figures[name] = _rate(each, f"{round_} busy") / quiet
    return figures


def in_turns(
    thread: LocalLLM, isolated: LocalLLM, figure: Callable[[LocalLLM, int], _T], pairs: int
) -> list[tuple[_T, _T]]:
    """Return pairs of figures, the thread's first; who is measured first changes from pair to pair."""
    found = []
    for index in range(pairs):
        first = figure((thread, isolated)[index % 2], index)
        second = figure((isolated, thread)[index % 2], index)
        found.append((second, first) if index % 2 else (first, second))
    return found


@contextmanager
def busy_loop() -> Iterator[None]:
    """A thread of this process that computes for as long as the block runs, and takes the GIL whenever it can."""
    done = False

    def compute() -> None:
        while not done:
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        yield
    finally:
        done = True
        thread.join()


def _pair(system: System) -> tuple[LocalLLM, LocalLLM]:
    """Return localllm in a thread and in a worker, both warm."""
    from bench.systems.own import LocalLLM

    if not isinstance(system, LocalLLM):
        raise TypeError("only localllm has workers")
    for each in (system, system.isolated):
        each.answer(story("warm-up"), 8)
        _cached_first_s(each)
    return system, system.isolated


def _rate(system: LocalLLM, salt: str) -> float:
    return system.answer(story(salt), RATE_TOKENS, endless=True).rate


def _cached_first_s(system: LocalLLM) -> float:
    """Return the seconds to the first token of a prompt that is cached but for its last token."""
    return system.answer([Turn("system", ASSISTANT), Turn("user", "Say hello.")], 1, endless=True).first_s


def _burst(system: LocalLLM, salt: str) -> tuple[float, float]:
    """Return the tokens per second of eight streams together, and the median of their first tokens in seconds."""
    start_s = time.perf_counter()
    answers = system.answer_all([story(f"{salt} {index}") for index in range(CHATS)], BURST_TOKENS)
    rate = sum(answer.tokens for answer in answers) / (time.perf_counter() - start_s)
    return rate, statistics.median(answer.first_s for answer in answers)

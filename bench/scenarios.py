"""What is measured: each scenario takes one system through one round and returns one figure."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

from attrs import frozen

from bench.loop_lag import extra_lag_ms
from bench.systems import LocalLLM, System
from localllm import ChatSession, Message, PromptProgress
from localllm.backends.llamacpp.hardware import physical_cores

TEXT = (
    "the engine reads every prompt once and keeps what it has read so that a second question about the same long "
    "text begins at the first word that differs from what was asked before"
)
WORDS = TEXT.split()


def words(count: int, salt: str = "") -> str:
    """Return a text of `count` words that no other salt begins with."""
    return " ".join([f"Note {salt}:", *(WORDS[index % len(WORDS)] for index in range(count))])


@frozen
class Scenario:
    """One thing that is measured.

    Args:
        name: Its name in the table.
        what: What it does.
        unit: The figure's unit.
        better: Whether "higher" or "lower" is better.
        run: Takes a system and the round's number through it.
        bound: What must hold, as text.
    """

    name: str
    what: str
    unit: str
    better: str
    run: Callable[[System, int], float]
    bound: str


def single(system: System, round_: int) -> float:
    """Return the rate of one stream of 128 tokens."""
    prompt = [Message.user(f"Write a long story about a lighthouse, part {round_ + 1}.")]
    return system.answer(prompt, 128)[0].rate


def second_turn(system: System, round_: int) -> float:
    """Return the seconds to the first token of a chat's second turn, after an 800-word system prompt."""
    messages = [Message.system(words(800, str(round_))), Message.user("Say hello.")]
    _, text = system.answer(messages, 16)
    messages += [Message("assistant", text), Message.user("And what did I ask you before?")]
    return system.answer(messages, 4)[0].first_s


def cancel(system: System, round_: int) -> float:
    """Return the seconds from a cancel in the middle of a 1,000-token prefill until the next request's first token."""
    if not isinstance(system, LocalLLM):
        raise TypeError(f"{system.name} cannot cancel")
    chat = ChatSession(system.model, history=[Message.system(words(1000, f"cancel {round_}"))])
    reading = threading.Event()
    stream = chat.stream("Say hello.", max_tokens=4)
    for event in stream.events():
        if isinstance(event, PromptProgress) and event.processed_tokens > 300:
            reading.set()
            break
    assert reading.is_set()
    start_s = time.perf_counter()
    _ = stream.reply
    cancelled_s = time.perf_counter() - start_s
    assert ChatSession(system.model).send("Say hello.", max_tokens=2, temperature=0).text
    return cancelled_s


def import_time(system: System, round_: int) -> float:
    """Return the milliseconds that `import localllm` adds to an empty start of Python."""
    return (_start("import localllm") - _start("pass")) * 1000


def _start(code: str) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start_s


def loop_lag(system: System, round_: int) -> float:
    """Return by how many milliseconds a busy engine delays an asyncio loop, more than an equal foreign load does."""
    if not isinstance(system, LocalLLM) or system.model.info.path is None:
        raise TypeError(f"{system.name} has no asyncio twin")
    return extra_lag_ms(system.model.info.path, physical_cores())


SCENARIOS = (
    Scenario("single", "one stream of 128 tokens", "tok/s", "higher", single, ">= 0.97 of the bare loop"),
    Scenario(
        "second turn",
        "first token of turn 2 after an 800-word system prompt",
        "s",
        "lower",
        second_turn,
        "<= llama_cpp.Llama",
    ),
    Scenario(
        "cancel", "cancel in the middle of a 1,000-token prefill, until it has ended", "s", "lower", cancel, "< 0.5 s"
    ),
    Scenario(
        "loop lag",
        "p99 lag of an asyncio loop beside a streaming model, less that beside one in another process",
        "ms",
        "lower",
        loop_lag,
        "<= 10 ms",
    ),
    Scenario("import", "`import localllm` over an empty start", "ms", "lower", import_time, "< 60 ms"),
)

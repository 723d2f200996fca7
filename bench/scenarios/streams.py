"""Scenarios of one stream and what goes on beside it: gaps between its pieces, and its rate."""

from __future__ import annotations

import math
import statistics
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from bench.scenarios.base import ASSISTANT, long_chat, story, words
from bench.systems.base import Answer, System, Turn
from bench.table import Figures

_T = TypeVar("_T")

LEAD = 16
"""Pieces of a stream before something happens beside it, and after."""


def interference(system: System, round_: int) -> Figures:
    """A stream while another chat's prompt of 800 words is read: its gaps, and that prompt's first token."""
    undisturbed = system.answer(long_chat(800, f"alone {round_}"), 4)
    stream, other = beside(
        system, story(f"{round_ + 2}"), 1500, lambda: system.answer(long_chat(800, f"beside {round_}"), 4)
    )
    gaps = gaps_s(stream.times_s, other.start_s, other.times_s[0])
    return {
        "longest": max(gaps) * 1000,
        "p99": percentile(gaps, 0.99) * 1000,
        "prompt": other.first_s / undisturbed.first_s,
    }


def growth(system: System, round_: int) -> Figures:
    """A stream of 600 tokens or more while another chat's turns make the context grow: the longest gap."""
    from bench.systems.own import LocalLLM

    if not isinstance(system, LocalLLM):
        raise TypeError("only localllm tells how large its context is")
    model = system.model
    system.answer(story("0"), 16)
    before = model.stats().cells_total

    def talk() -> None:
        chat = [Turn("system", ASSISTANT)]
        for index, count in enumerate((200, 400, 800, 1600)):
            chat.append(Turn("user", words(count, f"grow {round_} {index}")))
            chat.append(system.answer(chat, 4).turn)

    stream, _ = beside(system, story(f"{round_ + 2}"), 3000, talk, at_least=600)
    gaps = gaps_s(stream.times_s, stream.times_s[0], stream.end_s)
    return {"longest": max(gaps) * 1000, "doublings": math.log2(model.stats().cells_total / before)}


def occupied(system: System, round_: int) -> Figures:
    """A stream beside 8 idle chats of 1,000 tokens: its rate by that without them, and what of each chat is cached.

    Then the first stream of a new chat, in the cells of a long one that was answered right before.
    """
    system.answer(story("0"), 16)
    free = _rate(system, f"{round_ + 2} before")
    chats = [long_chat(990, f"idle {round_} {index}") for index in range(8)]
    for chat in chats:
        chat.append(system.answer(chat, 4).turn)
    beside_idle = _rate(system, f"{round_ + 2} after")
    cached = []
    for chat in chats:
        again = system.answer([*chat, Turn("user", "And now?")], 4)
        cached.append(again.cached_tokens / again.prompt_tokens)
    system.answer(long_chat(3000, f"long {round_}"), 4)
    new = [Turn("system", f"You are helper {round_}."), *story(f"{round_}")[1:]]
    after_long = system.answer(new, 128, endless=True).rate
    return {"free": free, "rate": beside_idle / free, "cached": min(cached), "long": after_long / free}


def _rate(system: System, salt: str) -> float:
    """Return the median rate of three streams."""
    return statistics.median(system.answer(story(f"{salt} {index}"), 128, endless=True).rate for index in range(3))


def beside(
    system: System, turns: Sequence[Turn], max_tokens: int, action: Callable[[], _T], *, at_least: int = 0
) -> tuple[Answer, _T]:
    """Run `action` beside a stream that has begun; return both, the stream ended some pieces after the action.

    Args:
        system: Who answers.
        turns: The stream's conversation.
        max_tokens: Of the stream.
        action: What happens beside it.
        at_least: Pieces that the stream has at least.

    Raises:
        RuntimeError: The stream ended before the action did.
    """
    begun, done = threading.Event(), threading.Event()
    after = 0
    results: list[Answer] = []
    errors: list[BaseException] = []

    def on_piece(count: int) -> bool:
        nonlocal after
        if count == LEAD:
            begun.set()
        after += done.is_set()
        return after < LEAD or count < at_least

    def read() -> None:
        try:
            results.append(system.answer(turns, max_tokens, on_piece=on_piece, endless=True))
        except BaseException as exc:  # noqa: BLE001  # raised below, by the thread that asked
            errors.append(exc)
        finally:
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    begun.wait()
    try:
        result = action()
        ended_early = not reader.is_alive()
    finally:
        done.set()
        reader.join()
    if errors:
        raise errors[0]
    if ended_early:
        raise RuntimeError(f"the stream ended after {results[0].tokens} tokens, before what was done beside it")
    return results[0], result


def gaps_s(times_s: Sequence[float], start_s: float, end_s: float) -> list[float]:
    """Return the gaps between neighbours that overlap the time from `start_s` to `end_s`."""
    pairs = pairwise(times_s)
    return [later - earlier for earlier, later in pairs if later > start_s and earlier < end_s]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` of the values lie, interpolated between neighbours."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

"""Scenarios of structured output: what holding a reply to a JSON Schema costs."""

from __future__ import annotations

import statistics

from bench.scenarios.base import story
from bench.systems.base import Answer, Schema, System
from bench.table import Figures

CHATS = 8
TOKENS = 96
PAIRS = 3


def schema(system: System, round_: int) -> Figures:
    """One stream with a schema and without, in turns: its rate, and how much later its first token comes."""
    pairs = [_pair(system, f"{round_} {index}", swap=bool(index % 2)) for index in range(PAIRS)]
    return {
        "rate": statistics.median(held.rate / free.rate for free, held in pairs),
        "held": statistics.median(held.rate for _, held in pairs),
        "first": statistics.median(held.first_s - free.first_s for free, held in pairs) * 1000,
    }


def schemas(system: System, round_: int) -> Figures:
    """Eight streams with a schema each, all of them different, by eight without."""
    ratios = []
    for index in range(PAIRS):
        chats = [story(f"{round_} {index} {number}") for number in range(CHATS)]
        free = _total_rate(system.answer_all(chats, TOKENS))
        held = _total_rate(system.answer_all(chats, TOKENS, [_tale(number) for number in range(CHATS)]))
        ratios.append(held / free)
    return {"eight": statistics.median(ratios)}


def _pair(system: System, salt: str, *, swap: bool) -> tuple[Answer, Answer]:
    """Return an answer without a schema and one with; both read their prompts from the cache but for the last token."""
    chat = story(salt)
    system.answer(chat, 1, endless=True)
    found: dict[bool, Answer] = {}
    for holds in (True, False) if swap else (False, True):
        found[holds] = (
            system.answer_json(chat, TOKENS, _tale(0)) if holds else system.answer(chat, TOKENS, endless=True)
        )
    return found[False], found[True]


def _total_rate(answers: list[Answer]) -> float:
    wall_s = max(answer.end_s for answer in answers) - min(answer.start_s for answer in answers)
    return sum(answer.tokens for answer in answers) / wall_s


def _tale(number: int) -> Schema:
    """Return a schema whose texts are long and free, so that hardly anything of them is forced."""
    return {
        "type": "object",
        "properties": {f"tale_{number}": {"type": "string", "minLength": 2000 + number}},
        "required": [f"tale_{number}"],
        "additionalProperties": False,
    }

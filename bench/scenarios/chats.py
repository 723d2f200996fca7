"""Scenarios of whole chats: how fast, how many at once, and what a second turn costs."""

from __future__ import annotations

import statistics

from bench.scenarios.base import long_chat, story
from bench.systems.base import Answer, System, Turn
from bench.table import Figures

REPLY_TOKENS = 16


def single(system: System, round_: int) -> Figures:
    """One stream of 128 tokens: its rate after the first token."""
    return {"rate": system.answer(story(f"{round_ + 2}"), 128).rate}


def concurrent(system: System, round_: int) -> Figures:
    """Eight short chats at once, 64 tokens each: all tokens by the time from the first question to the last end."""
    answers = system.answer_all([story(f"{round_ + 2} of {index + 1}") for index in range(8)], 64)
    return {"rate": sum(answer.tokens for answer in answers) / _wall_s(answers)}


def second_turn(system: System, round_: int) -> Figures:
    """First token of the second turn, after a system prompt of 800 words."""
    chat = long_chat(800, f"second {round_}")
    chat += [system.answer(chat, REPLY_TOKENS).turn, Turn("user", "And what did I ask you before?")]
    return {"first": system.answer(chat, 4).first_s}


def turns(system: System, round_: int) -> Figures:
    """Eight turns after a system prompt of 800 words: the first turn's first token, and the median of the others'."""
    chat = long_chat(800, f"turns {round_}")
    firsts = [_turn(system, chat, index).first_s for index in range(8)]
    return {"opening": firsts[0], "first": statistics.median(firsts[1:])}


def interleaved(system: System, round_: int) -> Figures:
    """Two chats with system prompts of 800 words, alternating: median first token once both have been opened."""
    chats = [long_chat(800, f"{name} {round_}") for name in ("left", "right")]
    for chat in chats:
        _turn(system, chat, 0)
    firsts = [_turn(system, chat, index).first_s for index in range(1, 4) for chat in chats]
    return {"first": statistics.median(firsts)}


def shared_burst(system: System, round_: int) -> Figures:
    """Eight new chats at once that share one new system prompt of 800 words: until the last has its answer."""
    chats = [long_chat(800, f"burst {round_}", f"Say hello in way {index}.") for index in range(8)]
    return {"wall": _wall_s(system.answer_all(chats, REPLY_TOKENS))}


def _turn(system: System, chat: list[Turn], index: int) -> Answer:
    """Answer the chat and ask its next question."""
    answer = system.answer(chat, REPLY_TOKENS)
    chat += [answer.turn, Turn("user", f"And what was question {index}?")]
    return answer


def _wall_s(answers: list[Answer]) -> float:
    return max(answer.end_s for answer in answers) - min(answer.start_s for answer in answers)

"""What a conversation costs that has outgrown its window. About localllm only."""

from __future__ import annotations

import statistics

from attrs import frozen

from bench.systems.base import Setup, System
from bench.table import Figures

_WINDOW, _TURNS = 1024, 50


@frozen
class _Turn:
    """What a turn's prompt cost.

    Args:
        tokens: Its length.
        first_s: Seconds to the first token.
        dropped: Whether messages were left out for it.
    """

    tokens: int
    first_s: float
    dropped: bool


def drops(system: System, round_: int) -> Figures:
    """First tokens after the first drop, by those of equally long prompts of which nothing was ever dropped."""
    figures: dict[str, float] = {}
    for name, calls in (("text", False), ("calls", True)):
        whole = _conversation(system.setup, None, calls=calls)
        window = _conversation(system.setup, _WINDOW, calls=calls)
        begun = next(index for index, turn in enumerate(window) if turn.dropped)
        ratios = [(turn, turn.first_s / _nearest(whole, turn.tokens).first_s) for turn in window[begun:]]
        figures[name] = statistics.median(ratio for turn, ratio in ratios if not turn.dropped)
        figures[f"{name}_drop"] = statistics.median(ratio for turn, ratio in ratios if turn.dropped)
        figures[f"{name}_often"] = sum(turn.dropped for turn in window[begun:]) / len(window[begun:])
    return figures


def _nearest(turns: list[_Turn], tokens: int) -> _Turn:
    return min(turns, key=lambda turn: abs(turn.tokens - tokens))


def _conversation(setup: Setup, window: int | None, *, calls: bool) -> list[_Turn]:
    """Return the turns of a conversation that drops what its window does not hold, or of one that drops nothing.

    With `calls`, the model calls a tool in each turn, and answers once it has the result.
    """
    from localllm import ChatSession, ModelConfig, ModelManager

    def next_number(number: int) -> int:
        """Return the number that comes after one."""
        return number + 1

    found = []
    with ModelManager(isolation="thread") as models:
        model = models.load(str(setup.path), config=ModelConfig(n_ctx=window or 8192, threads=setup.threads))
        chat = ChatSession(
            model,
            system="Be terse.",
            overflow="drop_oldest" if window else "error",
            tools=(next_number,) if calls else (),
            max_tool_rounds=1,
            temperature=0,
        )
        for number in range(_TURNS if window else _TURNS // 2):
            asked = f"This is message number {number}. What is the next number after {number}, please?"
            if calls:
                reply = chat.send(asked, max_tokens=48, tool_choice="required", parallel_tool_calls=False)
            else:
                reply = chat.send(asked, max_tokens=8)
            assert reply.timings.first_token_s is not None
            found.append(_Turn(reply.usage.prompt_tokens, reply.timings.first_token_s, bool(reply.dropped)))
    return found

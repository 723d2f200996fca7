"""What a session costs that has outgrown its window, or comes back from a file. About localllm only."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from bench.scenarios.base import words
from bench.systems.base import Setup, System
from bench.table import Figures

_LIMIT_S = 300.0
_WINDOW, _TURNS = 1024, 50
_START = """
import sys, time
from localllm import ChatSession, ModelConfig, ModelManager
what, path, threads, file, system = sys.argv[1:]
with ModelManager(isolation="thread") as models:
    model = models.load(path, config=ModelConfig(threads=int(threads), n_ctx=8192))
    start_s = time.perf_counter()
    if what == "restore":
        chat = ChatSession.restore(file, model)
        assert chat.restored.tokens > 4000, chat.restored
    else:
        chat = ChatSession(model, system=system)
    with chat.stream("Say hello.", temperature=0, max_tokens=4) as stream:
        next(iter(stream))
        print(time.perf_counter() - start_s, flush=True)
        for _ in stream:
            pass
    if what == "save":
        chat.save(file)
"""


def restore(system: System, round_: int) -> Figures:
    """First token in a new process of a session with 4,000 tokens: restored from a file, and read again."""
    prompt = words(4000, f"restore {round_}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chat.session"
        read_s = _first_s(system.setup, "save", file, prompt)
        restored_s = _first_s(system.setup, "restore", file, "")
        return {
            "restored": restored_s,
            "read": read_s,
            "ratio": restored_s / read_s,
            "size": file.stat().st_size / 2**20,
        }


def drops(system: System, round_: int) -> Figures:
    """First tokens of turns after the first drop, each by that of an equally long prompt of which nothing left."""
    return {
        "ratio": _after_drop(system.setup, ()),
        "tools": _after_drop(system.setup, (_next_number,)),
    }


def _first_s(setup: Setup, what: str, file: Path, prompt: str) -> float:
    """Return the seconds to the first token in a new process, the restoring included."""
    command = [sys.executable, "-c", _START, what, str(setup.path), str(setup.threads), str(file), prompt]
    done = subprocess.run(command, capture_output=True, check=True, timeout=_LIMIT_S)
    return float(done.stdout)


def _next_number(number: int) -> int:
    """Return the number that comes after one."""
    return number + 1


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


def _after_drop(setup: Setup, tools: tuple[Callable[..., object], ...]) -> float:
    whole = _turns(setup, None, tools)
    window = _turns(setup, _WINDOW, tools)
    first_drop = next(index for index, turn in enumerate(window) if turn.dropped)
    return statistics.median(
        turn.first_s / _nearest(whole, turn.tokens).first_s for turn in window[first_drop:] if not turn.dropped
    )


def _nearest(turns: list[_Turn], tokens: int) -> _Turn:
    return min(turns, key=lambda turn: abs(turn.tokens - tokens))


def _turns(setup: Setup, window: int | None, tools: tuple[Callable[..., object], ...]) -> list[_Turn]:
    """Return the turns of a conversation that drops what its window does not hold, or of half of it that drops none."""
    from localllm import ChatSession, ModelConfig, ModelManager

    found = []
    with ModelManager(isolation="thread") as models:
        model = models.load(str(setup.path), config=ModelConfig(n_ctx=window or 8192, threads=setup.threads))
        chat = ChatSession(
            model, system="Be terse.", overflow="drop_oldest" if window else "error", tools=tools, run_tools=False
        )
        for number in range(_TURNS if window else _TURNS // 2):
            asked = f"This is message number {number}. What is the next number after {number}, please?"
            reply = chat.send(asked, max_tokens=8, temperature=0)
            assert reply.timings.first_token_s is not None
            found.append(_Turn(reply.usage.prompt_tokens, reply.timings.first_token_s, bool(reply.dropped)))
    return found

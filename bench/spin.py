"""Measure how long llama.cpp's threads should spin before they sleep: `python -m bench.spin [--rounds N]`.

llama.cpp's threads meet at a barrier some hundred times for a token. Whoever comes first spins there, then sleeps. Much
spinning is fast on a quiet machine; beside other programs it burns the very time that the late thread needs to arrive.
Each setting is measured in processes of their own, quietly and beside one process that computes, settings taking turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.machine import machine_line
from localllm import ChatSession, ModelConfig, ModelManager

SETTINGS: dict[str, dict[str, str]] = {
    "libgomp's default": {},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (300, 1000, 3000, 10_000)},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
COLUMNS = ("decode tok/s", "prefill tok/s", "decode beside a busy process", "longest gap beside it, ms")
OURS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def measure(tokens: int) -> list[float]:
    """Return one figure for each column."""
    with ModelManager(isolation="thread") as models:
        model = models.load("smollm2-135m", config=ModelConfig(n_ctx=2048))
        ChatSession(model).send("Warm up.", max_tokens=8)
        system = " ".join(f"word{index % 97}" for index in range(120))
        reply = ChatSession(model, system=system).send("Say hello.", max_tokens=1)
        prefill = reply.usage.prompt_tokens / reply.timings.prefill_s
        quiet, _ = _decode(model_chat := ChatSession(model), tokens)
        model_chat.reset()
        with busy_process():
            beside, gap_s = _decode(model_chat, tokens)
        return [quiet, prefill, beside, gap_s * 1000]


def _decode(chat: ChatSession, tokens: int) -> tuple[float, float]:
    """Return the rate of one stream and its longest gap in seconds."""
    last_s = longest_s = 0.0
    with chat.stream("Tell a long story about the sea.", temperature=0, max_tokens=tokens) as stream:
        for _ in stream:
            now_s = time.perf_counter()
            longest_s = max(longest_s, now_s - last_s if last_s else 0.0)
            last_s = now_s
    return stream.reply.timings.tokens_per_s, longest_s


@contextmanager
def busy_process() -> Iterator[None]:
    """One process that computes for as long as the block runs."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def run_one(setting: dict[str, str], tokens: int) -> list[float]:
    """Measure one setting in a process of its own: libgomp reads its environment once."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS} | setting
    command = [sys.executable, "-m", "bench.spin", "--one", "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Parse the arguments, measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=96, help="of each stream")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.tokens)))
        return
    rounds = [
        {name: run_one(setting, arguments.tokens) for name, setting in SETTINGS.items()}
        for _ in range(arguments.rounds)
    ]
    lines = [f"| setting | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    for name in SETTINGS:
        medians = [statistics.median(round_[name][column] for round_ in rounds) for column in range(len(COLUMNS))]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.4g}" for figure in medians) + " |")
    text = f"{machine_line()}; medians of {arguments.rounds} rounds.\n\n" + "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# How long threads spin (`python -m bench.spin`)\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()

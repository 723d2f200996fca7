"""Measure what the defaults rest on: `python -m bench.sweep [--rounds 3] [--write bench/SWEEP.md]`.

Each setting runs in a process of its own; the settings take turns within each round. The first line is the default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.machine import machine_line
from localllm import ChatSession, Message, Model, ModelConfig, ModelManager, StreamChunk
from localllm.backends.llamacpp.hardware import physical_cores

WORDS = "the engine reads a prompt once and keeps what it has read so that a later question begins where it differs"
COLUMNS = ("prefill tok/s", "decode tok/s", "8 streams tok/s", "longest gap ms", "anonymous MB")


def settings() -> list[dict[str, Any]]:
    """Return the settings: the default, then one thing changed at a time."""
    cores = physical_cores()
    threads = sorted({1, cores, 2 * cores} - {cores})
    changes: list[dict[str, Any]] = [{}]
    changes += [{"threads": count} for count in threads]
    changes += [{"n_batch": size} for size in (32, 64, 128, 256, 512)]
    changes += [{"flash_attention": True}, {"kv_type": "q8_0"}, {"kv_type": "f32"}]
    changes += [{"step_ms": step} for step in (40, 160)]
    return changes


def words(count: int, salt: str) -> str:
    """Return a text that no other salt begins with."""
    return f"{salt}: " + " ".join((WORDS.split() * (count // 10))[:count])


def measure(config: dict[str, Any]) -> list[float]:
    """Return one figure for each column."""
    with ModelManager(isolation="thread") as models:
        model = models.load("smollm2-135m", config=ModelConfig(**config))
        ChatSession(model).send("Warm up.", max_tokens=8)
        prompt = [Message.system(words(800, "prefill"))]
        reply = ChatSession(model, history=prompt).send("Say hello.", max_tokens=1)
        prefill = reply.usage.prompt_tokens / reply.timings.prefill_s
        decode = ChatSession(model).send("Tell a long story.", temperature=0, max_tokens=96).timings.tokens_per_s
        return [prefill, decode, _eight(model), _longest_gap(model), _anonymous_bytes() / 1e6]


def _eight(model: Model) -> float:
    start_s = time.perf_counter()
    streams = [
        ChatSession(model).stream(f"Tell a story about the number {index}.", temperature=0, max_tokens=48)
        for index in range(8)
    ]
    tokens = sum(stream.reply.usage.completion_tokens for stream in streams)
    return tokens / (time.perf_counter() - start_s)


def _longest_gap(model: Model) -> float:
    """Return the longest wait for a token of a stream while another chat's long prompt is read, in milliseconds."""
    stream = ChatSession(model).stream("Tell a very long story.", temperature=0, max_tokens=400)
    other, last_s, longest_s = None, 0.0, 0.0
    for count, event in enumerate(stream.events()):
        now_s = time.perf_counter()
        if not isinstance(event, StreamChunk):
            continue
        longest_s = max(longest_s, now_s - last_s if last_s else 0.0)
        last_s = now_s
        if count == 20:
            other = ChatSession(model, system=words(600, "other")).stream("Say hello.", max_tokens=1)
    if other is not None:
        _ = other.reply
    return longest_s * 1000


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no Pss_Anon")


def run_one(config: dict[str, Any]) -> list[float]:
    """Measure one setting in a process of its own."""
    command = [sys.executable, "-m", "bench.sweep", "--one", json.dumps(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: list[float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Parse the arguments, measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one))))
        return
    chosen = settings()
    rounds = [[run_one(config) for config in chosen] for _ in range(arguments.rounds)]
    lines = [f"| setting | {' | '.join(COLUMNS)} |", "| --- |" + " --- |" * len(COLUMNS)]
    for index, config in enumerate(chosen):
        name = ", ".join(f"{key}={value!r}" for key, value in config.items()) or "default"
        medians = [statistics.median(round_[index][column] for round_ in rounds) for column in range(len(COLUMNS))]
        lines.append(f"| {name} | " + " | ".join(f"{figure:.4g}" for figure in medians) + " |")
    text = f"{machine_line()}; medians of {arguments.rounds} rounds.\n\n" + "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# What the defaults rest on (`python -m bench.sweep`)\n\n{text}")


if __name__ == "__main__":
    main()

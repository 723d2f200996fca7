"""Run the benchmarks and print a table: `python -m bench [--rounds N] [--scenario NAME ...] [--system NAME ...]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.harness import Machine, measure
from bench.machine import machine_line
from bench.scenarios import SCENARIOS
from bench.systems import LOCALLLM, SYSTEMS
from bench.table import Result, markdown, notes
from localllm.backends.llamacpp.hardware import physical_cores
from localllm.models.store import ModelStore


def report(results: list[Result], systems: tuple[str, ...], rounds: int, threads: int) -> str:
    """Return the whole text: the machine, the table, the notes."""
    shown = tuple(name for name in systems if any(result.figures.get(name) for result in results))
    remarks = "\n".join(f"- {note}" for note in notes(results))
    return (
        f"{machine_line()}, {threads} threads; SmolLM2-135M-Instruct Q4_1. Medians of {rounds} rounds, the systems "
        "taking turns in each, every system in a process of its own. Each has a context of 8,192 tokens and 8 parallel "
        "chats (32 in `overhead`), answers greedily, and has its own defaults otherwise. "
        f"\"By\" is localllm's figure by the other's.\n\n{markdown(results, (LOCALLLM, *shown))}\n\n{remarks}\n"
    )


def main() -> None:
    """Parse the arguments, measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, beside one that warms up")
    parser.add_argument("--scenario", nargs="+", choices=[scenario.name for scenario in SCENARIOS], metavar="NAME")
    parser.add_argument("--system", nargs="+", choices=SYSTEMS, metavar="NAME")
    parser.add_argument("--write", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    systems = tuple(arguments.system or SYSTEMS)
    machine = Machine(ModelStore().resolve("smollm2-135m"), physical_cores())
    results = []
    for scenario in SCENARIOS:
        if arguments.scenario is None or scenario.name in arguments.scenario:
            start_s = time.perf_counter()
            results.append(measure(scenario, systems, arguments.rounds, machine))
            print(f"{scenario.name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr, flush=True)
    text = report(results, tuple(name for name in systems if name != LOCALLLM), arguments.rounds, machine.threads)
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# Results of `make bench`\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Run the benchmarks and print a table: `python -m bench [--rounds 5] [--scenario NAME] [--write FILE]`."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.scenarios import SCENARIOS, Scenario
from bench.systems import BareLoop, LlamaCppPython, LocalLLM, System
from localllm.backends.llamacpp.hardware import physical_cores
from localllm.models.refs import resolve

# Who takes part in what: the bare loop has no turns, only localllm can cancel, importing concerns nobody else.
TAKES_PART: dict[str, tuple[type[System], ...]] = {
    "single": (LocalLLM, LlamaCppPython, BareLoop),
    "second turn": (LocalLLM, LlamaCppPython),
    "cancel": (LocalLLM,),
    "loop lag": (LocalLLM,),
    "import": (LocalLLM,),
}


def measure(scenario: Scenario, rounds: int, path: Path, threads: int) -> dict[str, float]:
    """Return each system's median over `rounds`, the systems taking turns within every round."""
    systems: list[LocalLLM | LlamaCppPython | BareLoop] = [
        kind(path, threads) for kind in (LocalLLM, LlamaCppPython, BareLoop) if kind in TAKES_PART[scenario.name]
    ]
    figures: dict[str, list[float]] = {system.name: [] for system in systems}
    try:
        for round_ in range(-1, rounds):  # the first round warms up and does not count
            for system in systems:
                figure = scenario.run(system, round_)
                if round_ >= 0:
                    figures[system.name].append(figure)
    finally:
        for system in systems:
            system.close()
    return {name: statistics.median(values) for name, values in figures.items()}


def table(results: Sequence[tuple[Scenario, dict[str, float]]]) -> str:
    """Return the results as a Markdown table; a ratio is localllm's figure by the other's."""
    lines = [
        "| scenario | what | localllm | llama_cpp.Llama | bare loop | ratio to Llama | ratio to bare loop | must be |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for scenario, medians in results:
        own = medians["localllm"]
        cells = [f"{medians[name]:.3g} {scenario.unit}" if name in medians else "-" for name in _COLUMNS]
        ratios = [f"{own / medians[name]:.2f}" if name in medians else "-" for name in _COLUMNS[1:]]
        lines.append(" | ".join([f"| {scenario.name}", scenario.what, *cells, *ratios, f"{scenario.bound} |"]))
    return "\n".join(lines)


_COLUMNS = ("localllm", "llama_cpp.Llama", "bare loop")


def cpu_model() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    """Parse the arguments, measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scenario", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    path, threads = resolve("smollm2-135m"), physical_cores()
    chosen = [scenario for scenario in SCENARIOS if arguments.scenario in (None, scenario.name)]
    results = [(scenario, measure(scenario, arguments.rounds, path, threads)) for scenario in chosen]
    text = (
        f"{cpu_model()}, {os.cpu_count()} cores, {threads} threads; SmolLM2-135M-Instruct Q4_1; "
        f"medians of {arguments.rounds} rounds, the systems taking turns in each.\n\n{table(results)}\n"
    )
    print(text)
    if arguments.write:
        arguments.write.write_text(f"# Results of `make bench`\n\n{text}")


if __name__ == "__main__":
    main()

"""Host one system in a process of its own: `python -m bench.child SYSTEM SCENARIO MODEL THREADS`.

It answers lines with lines of JSON: the number of a round with `{"figures": {name: number}}` or `{"error": text}`, and
"about" with `{"about": [text]}`. It ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TextIO

from bench.scenarios import SCENARIOS, Scenario
from bench.systems import open_system
from bench.systems.base import Setup, System


def main() -> None:
    """Serve rounds until the input ends."""
    answers = _take_stdout()
    name, scenario_name, path, threads = sys.argv[1:]
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == scenario_name)
    setup = Setup(
        path=Path(path),
        threads=scenario.threads or int(threads),
        n_ctx=scenario.n_ctx,
        n_parallel=scenario.n_parallel,
        repack=scenario.repack,
    )
    system = open_system(name, setup)
    try:
        for line in sys.stdin:
            asked = line.strip()
            _say(answers, {"about": system.about()} if asked == "about" else _round(scenario, system, int(asked)))
    finally:
        system.close()


def _take_stdout() -> TextIO:
    """Return what was the standard output; native code that prints there prints to the standard error from now on."""
    sys.stdout.flush()
    taken = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return taken


def _round(scenario: Scenario, system: System, round_: int) -> dict[str, object]:
    try:
        return {"figures": dict(scenario.run(system, round_))}
    except Exception as exc:  # noqa: BLE001  # told to the parent, which goes on with the others
        return {"error": f"{type(exc).__name__}: {exc}"}


def _say(answers: TextIO, what: dict[str, object]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()

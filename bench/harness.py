"""Run a scenario: a process for each system, asked in turn within every round."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from bench.scenarios import Scenario
from bench.table import Figures, Result

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300.0
"""For one round of one system: several times what the slowest takes on two cores."""


class ChildError(Exception):
    """A child could not run its round; the text says why."""


@frozen
class Machine:
    """What all systems run on.

    Args:
        path: The model.
        threads: Threads that compute.
    """

    path: Path
    threads: int


class Child:
    """One system in a process of its own. A context manager: leaving it ends the process.

    Args:
        system: The system's name.
        scenario: The scenario's name.
        machine: What it runs on.
    """

    def __init__(self, system: str, scenario: str, machine: Machine) -> None:
        self._late = False
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # `close` does
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.child", system, scenario, str(machine.path), str(machine.threads)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )

    def run(self, round_: int) -> Figures:
        """Run one round.

        Raises:
            ChildError: It failed, died or took too long.
        """
        answer = self._ask(str(round_))
        figures = answer.get("figures")
        if not isinstance(figures, dict):
            raise ChildError(str(answer.get("error")))
        return {str(name): float(value) for name, value in figures.items()}

    def about(self) -> list[str]:
        """Return what a reader must know of the system; asked last, since to answer it may load more than a round.

        Raises:
            ChildError: It failed, died or took too long.
        """
        said = self._ask("about").get("about")
        return [str(text) for text in said] if isinstance(said, list) else []

    def close(self) -> None:
        """End the process; a second call does nothing."""
        process = self._process
        with process:  # closes its pipes
            if process.stdin:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        self._log.close()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()

    def _ask(self, line: str) -> dict[str, object]:
        """Send a line and return what it answers."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the child has no pipes")
        timer = threading.Timer(TIMEOUT_S, self._give_up)
        timer.start()
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError as exc:
            raise ChildError(self._death()) from exc
        finally:
            timer.cancel()
        if not line:
            raise ChildError(self._death())
        answer: dict[str, object] = json.loads(line)
        return answer

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _death(self) -> str:
        code = self._process.wait()
        if self._late:
            return f"it took more than {TIMEOUT_S:g} s"
        self._log.seek(0)
        said = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"its process ended with {how}{': ' + said[-1] if said else ''}"


def measure(scenario: Scenario, systems: tuple[str, ...], rounds: int, machine: Machine) -> Result:
    """Run all rounds of a scenario. A system that fails leaves it, and a note.

    Args:
        scenario: What to run.
        systems: Who may take part.
        rounds: How many rounds count.
        machine: What they run on.
    """
    figures: dict[str, list[Figures]] = {name: [] for name in scenario.systems if name in systems}
    notes: list[str] = []
    taking_part = list(figures)
    with ExitStack() as stack:
        children: dict[str, Child] = {}
        for round_ in range(-1 if scenario.warm_up else 0, rounds):
            for name in list(taking_part):
                try:
                    if name not in children:
                        children[name] = stack.enter_context(Child(name, scenario.name, machine))
                    found = children[name].run(round_)
                    notes += children[name].about()
                except ChildError as exc:
                    notes.append(f"{name} left {scenario.name!r} in round {round_ + 1}: {exc}")
                    taking_part.remove(name)
                    continue
                if round_ >= 0:
                    figures[name].append(found)
                if scenario.fresh:  # at once: what processes share counts less for each
                    children.pop(name).close()
    return Result(scenario.name, scenario.measures, figures, tuple(notes))

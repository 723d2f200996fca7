"""Runs hostile files past the guard, and those that it lets through in child processes with llama.cpp."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue

from attrs import frozen

from localllm.backends.llamacpp.repacking import can_repack
from localllm.errors import InvalidModelFileError
from localllm.models.checks import check_file
from tests.models.mutations import Mutation

CHILD = Path(__file__).with_name("native_child.py")
BATCH_S = 120.0
"""For a whole batch of a child: hundreds of files in a few seconds."""


@frozen
class Outcome:
    """What became of many hostile files.

    Args:
        refused: How many the guard refused.
        native: How many each native outcome had, such as "decoded".
        killers: What was changed in those that ended the child, and how it ended.
    """

    refused: int
    native: Counter[str]
    killers: tuple[str, ...]


def run_all(mutations: Iterable[Mutation], folder: Path, *, children: int = 2) -> Outcome:
    """Run each mutation past the guard, and llama.cpp over what it lets through.

    Args:
        mutations: The hostile files.
        folder: An empty folder to write them to.
        children: Child processes at a time.
    """
    refused = 0
    passed: list[tuple[str, Path]] = []
    for index, mutation in enumerate(mutations):
        path = folder / f"{index}.gguf"
        path.write_bytes(mutation.data)
        try:
            check_file(path)
        except InvalidModelFileError:
            refused += 1
            path.unlink()
        else:
            passed.append((mutation.label, path))
    results: SimpleQueue[tuple[list[str], list[str]]] = SimpleQueue()
    threads = [
        threading.Thread(target=lambda part=passed[start::children]: results.put(run_native(part)))
        for start in range(children)
    ]
    for thread in threads:
        thread.start()
    native: Counter[str] = Counter()
    killers: list[str] = []
    for _ in threads:
        outcomes, deaths = results.get()
        native.update(outcomes)
        killers += deaths
    for thread in threads:
        thread.join()
    return Outcome(refused, native, tuple(killers))


def run_native(files: Sequence[tuple[str, Path]]) -> tuple[list[str], list[str]]:
    """Run `files` in one child, in another one from the file after each that kills it; return outcomes and killers."""
    outcomes: list[str] = []
    killers: list[str] = []
    rest = list(files)
    while rest:
        command = [sys.executable, str(CHILD), str(int(can_repack()))]
        text = "\n".join(str(path) for _, path in rest)
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=BATCH_S, check=False)
            output, error, end = done.stdout, done.stderr, f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as exc:
            output = (exc.stdout or b"").decode()  # bytes, whatever `text` says
            error, end = "", f"no answer within {BATCH_S} s"
        lines = output.splitlines()
        outcomes += lines[1::2]
        finished = len(lines) // 2
        if finished == len(rest):
            break
        label, path = rest[finished]
        killers.append(f"{path.name}: {label}: {end}: {error[-400:]}")
        rest = rest[finished + 1 :]
    return outcomes, killers

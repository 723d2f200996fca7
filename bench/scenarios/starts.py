"""What a new process takes: to look at a model, and to a first token when what was read is on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.scenarios.base import words
from bench.systems.base import Setup, System
from bench.table import Figures

_LIMIT_S = 300.0
_START = """
import sys, time
from pathlib import Path
from localllm import ChatSession, ModelConfig, ModelManager
path, threads, n_ctx, n_parallel, folder, file, system = sys.argv[1:]
config = ModelConfig(
    threads=int(threads), n_ctx=int(n_ctx), n_parallel=int(n_parallel), prompt_cache_dir=folder or None
)
with ModelManager(isolation="thread") as models:
    model = models.load(path, config=config)
    start_s = time.perf_counter()
    if file and Path(file).exists():
        chat = ChatSession.restore(file, model)
        assert chat.restored.tokens > 4000, chat.restored
    else:
        chat = ChatSession(model, system=system)
    with chat.stream("Say hello.", temperature=0, max_tokens=16) as stream:
        next(iter(stream))
        print(time.perf_counter() - start_s, flush=True)
        for _ in stream:
            pass
    if file:
        chat.save(file)
"""


def prompt_cache(system: System, round_: int) -> Figures:
    """First token of the first chat of a process, with a system prompt of 800 words: read, then found on disk."""
    prompt = words(800, f"prompt cache {round_}")
    with tempfile.TemporaryDirectory() as folder:
        read_s = _first_s(system.setup, prompt, folder=folder)
        found_s = _first_s(system.setup, prompt, folder=folder)
        stored = sum(
            os.stat(os.path.join(place, name)).st_size for place, _, names in os.walk(folder) for name in names
        )
    return {"found": found_s, "read": read_s, "ratio": found_s / read_s, "size": stored / 2**20}


def restore(system: System, round_: int) -> Figures:
    """First token in a new process of a session with 4,000 tokens: read, then restored from a file."""
    prompt = words(4000, f"restore {round_}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chat.session"
        read_s = _first_s(system.setup, prompt, file=file)
        size = file.stat().st_size
        restored_s = _first_s(system.setup, prompt, file=file)
    return {"restored": restored_s, "read": read_s, "ratio": restored_s / read_s, "size": size / 2**20}


def inspect(system: System, round_: int) -> Figures:
    """`localllm inspect` as a whole command; and what reading and checking a header takes of it, best of seven."""
    from localllm.models.checks import check_file

    command = [sys.executable, "-m", "localllm", "inspect", str(system.setup.path)]
    start_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=_LIMIT_S)
    command_s = time.perf_counter() - start_s
    header_s = []
    for _ in range(7):
        begun_s = time.process_time()
        check_file(Path(system.setup.path))
        header_s.append(time.process_time() - begun_s)
    return {"command": command_s, "header": min(header_s) * 1000}


def _first_s(setup: Setup, prompt: str, *, folder: str = "", file: Path | str = "") -> float:
    """Return the seconds to the first token in a new process, with what is in the folder or the file if it is there."""
    settings = (setup.path, setup.threads, setup.n_ctx, setup.n_parallel, folder, file, prompt)
    command = [sys.executable, "-c", _START, *map(str, settings)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=_LIMIT_S)
    return float(done.stdout)

"""Weights are repacked for the processor exactly where llama.cpp's code for that works."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.systems import native

from localllm import ChatSession, ModelConfig, ModelManager
from localllm.backends.llamacpp import amx_trial
from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.library import library
from localllm.backends.llamacpp.mapped import let_go
from localllm.backends.llamacpp.repacking import amx_failure, can_repack, failure_of
from tests.worker.harness import until

_READ = """
import sys
from llama_cpp import llama_cpp as lib
params = lib.llama_model_default_params()
params.use_extra_bufts = True
model = lib.llama_model_load_from_file(sys.argv[1].encode(), params)
params = lib.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 256, 64, 2, 2
context = lib.llama_init_from_model(model, params)
tokens = (lib.llama_token * 40)(*range(100, 140))
sys.exit(lib.llama_decode(context, lib.llama_batch_get_one(tokens, 40)))
"""


@pytest.fixture
def models() -> Iterator[ModelManager]:
    """A manager whose models are in this process."""
    with ModelManager(isolation="thread") as manager:
        yield manager


def test_weights_are_repacked_exactly_where_the_model_survives_it(smollm2_path: Path) -> None:
    """A process that reads a prompt with repacked weights lives if they may be repacked, and dies if not."""
    done = subprocess.run([sys.executable, "-c", _READ, str(smollm2_path)], capture_output=True, timeout=60)
    assert can_repack() == (done.returncode == 0)
    assert can_repack() == (amx_failure() is None)


def test_the_trial_multiplies_as_ggml_does() -> None:
    """Its two matrices, in plain buffers of the processor's, give the products that it expects of AMX's."""
    llama = Path(library()._lib._name)
    ggml = ctypes.CDLL(str(llama.with_name(f"libggml{llama.suffix}")))
    found = amx_trial.products(ggml, amx_trial.call(ggml, "ggml_backend_cpu_buffer_type"))
    assert amx_trial.agree(found)
    assert not amx_trial.agree([*found[1:], found[0]])


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        (f"print({amx_trial.RIGHT!r})", None),
        ("", "exit code 0"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    ],
)
def test_each_way_to_fail_is_told(program: str, failure: str | None) -> None:
    """An exit code and a signal; only what says that all is right has not failed."""
    assert failure_of([sys.executable, "-I", "-S", "-c", program]) == failure


def test_a_crash_is_seen_where_children_are_ignored() -> None:
    """The system then tells no exit codes, and Python makes 0 of that; workers inherit it from the application."""
    program = (
        "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from localllm.backends.llamacpp.repacking import failure_of\n"
        "print(failure_of([sys.executable, '-c', 'import os; os.abort()']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "exit code 0"


def test_a_trial_that_hangs_has_failed() -> None:
    """It is given up after its time."""
    assert failure_of([sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"], 0.2) == "no end after 0.2 s"


def test_a_trial_that_cannot_begin_has_failed() -> None:
    """As where there is no interpreter."""
    assert "no process" in str(failure_of(["/nowhere/python"]))


def test_ctrl_c_gives_a_load_up(smollm2_path: Path) -> None:
    """The wait for it ends at once, and nothing goes on behind."""
    program = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from localllm.backends.llamacpp.bindings import NativeModel\n"
        "told = []\n"
        "def interrupt(fraction):\n"
        "    told.append(fraction)\n"
        "    if len(told) == 1: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return True\n"
        "try: NativeModel(Path(sys.argv[1]), mmap=False, on_progress=interrupt)\n"
        "except KeyboardInterrupt: print('given up', len(told) < 3, [t.name for t in threading.enumerate()])\n"
    )
    command = [sys.executable, "-c", program, str(smollm2_path)]
    assert (
        subprocess.run(command, capture_output=True, timeout=60, check=True).stdout.strip()
        == b"given up True ['MainThread']"
    )


def test_the_peers_of_the_benchmarks_decide_alike() -> None:
    """Their processes do not load localllm, so what runs the trial is written twice."""
    assert native.can_repack() == can_repack()


def test_loading_leaves_no_threads_behind(smollm2_path: Path) -> None:
    """OpenMP's threads that laid the weights out would slow down those that compute."""
    library()  # which has threads of its own
    tasks = Path("/proc/self/task")
    before = len(list(tasks.iterdir()))
    model = NativeModel(smollm2_path)
    until(lambda: len(list(tasks.iterdir())) <= before, "OpenMP's threads have ended")
    model.close()


def test_the_pages_of_a_mapped_file_are_let_go(tmp_path: Path) -> None:
    """Of this file alone, and only where it is mapped read-only and shared; its content is what it was."""
    path, other = tmp_path / "a file", tmp_path / "another"
    for name in (path, other):
        name.write_bytes(bytes(range(256)) * 4096)
    link = tmp_path / "link"
    link.symlink_to(path)
    with path.open("rb") as one, other.open("rb") as two, path.open("r+b") as three:
        size = path.stat().st_size
        shared = mmap.mmap(one.fileno(), size, prot=mmap.PROT_READ)
        strange = mmap.mmap(two.fileno(), size, prot=mmap.PROT_READ)
        private = mmap.mmap(three.fileno(), size, flags=mmap.MAP_PRIVATE)
        private[0] = 77
        assert sum(shared[:]) + sum(strange[:]) == 2 * 127.5 * size
        assert let_go([link]) == size
        assert _resident(path) == 0 < _resident(other)
        assert private[0] == 77
        assert shared[255] == 255
        for each in (shared, strange, private):
            each.close()
    assert let_go([path]) == 0


def test_a_model_with_repacked_weights_is_in_memory_once(models: ModelManager, smollm2_path: Path) -> None:
    """Many pages of its file are not in the process when it has answered; without repacking they all are."""
    model = models.load(smollm2_path, config=ModelConfig(n_ctx=128))
    ChatSession(model).send("Hello", max_tokens=1)
    resident = _resident(smollm2_path)
    model.close()
    plain = models.load(smollm2_path, config=ModelConfig(n_ctx=128, repack=False))
    ChatSession(plain).send("Hello", max_tokens=1)
    assert _resident(smollm2_path) >= 0.9 * smollm2_path.stat().st_size
    assert (resident <= 0.6 * smollm2_path.stat().st_size) == can_repack()
    plain.close()


def _resident(path: Path) -> int:
    """Return how many bytes of a file's read-only mappings are in this process."""
    resident, counting = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split(maxsplit=5)
        if not name.endswith(":"):
            counting = rest[0] == "r--s" and rest[-1] == str(path)
        elif name == "Rss:" and counting:
            resident += int(rest[0]) * 1024
    return resident

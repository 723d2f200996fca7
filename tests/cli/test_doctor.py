"""`localllm doctor`: what it makes of a machine, of a native library that fails in every way, and of one that works."""

from __future__ import annotations

import io
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from localllm.cli import probe
from localllm.cli.doctor import BackendFinding, ProbeResult, check_llamacpp, diagnose, judge
from localllm.cli.figures import size
from localllm.cli.machine import Machine, look
from localllm.cli.terminal import Terminal

LIBRARY = '{"step": "library", "detail": "CPU : AVX2 = 1 | FMA = 1 | F16C = 1 |"}\n'
MODEL = '{"step": "model", "detail": "SmolLM2"}\n'
REPLY = '{"step": "reply", "detail": "80.0"}\n'


def machine(*features: str) -> Machine:
    """A machine with these instruction sets."""
    return Machine(
        system="Linux",
        architecture="x86_64",
        processor="A processor",
        cores=2,
        threads=4,
        features=features,
        memory_bytes=8 * 2**30,
        available_bytes=None,
    )


def test_a_working_backend_is_told_with_its_speed() -> None:
    """Library, model and reply: nothing to do."""
    found = judge(machine("avx2", "fma"), ProbeResult(code=0, output=LIBRARY + MODEL + REPLY))
    assert found == BackendFinding(name="llama.cpp", works=True, detail="works: SmolLM2, 80.0 tokens/s")


def test_a_build_that_leaves_instructions_unused_is_told() -> None:
    """A generic build on a newer processor works slowly; the advice is to compile it here."""
    found = judge(machine("avx2", "avx512f"), ProbeResult(code=0, output=LIBRARY + MODEL + REPLY))
    assert found.works
    assert "avx512f" in found.advice
    assert "avx2" not in found.advice
    assert "--no-cache-dir" in found.advice


def test_amx_code_that_fails_is_told() -> None:
    """It is not used, which halves the speed; the advice has the flag with which it works."""
    amx = '{"step": "amx", "detail": "killed by SIGSEGV"}\n'
    found = judge(machine("avx2"), ProbeResult(code=0, output=LIBRARY + amx + MODEL + REPLY))
    assert found.works
    assert "killed by SIGSEGV" in found.advice
    assert "CXXFLAGS=-fno-dse pip install" in found.advice


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ProbeResult(code=-4, output=""), "killed by SIGILL (it was built for another processor)"),
        (ProbeResult(code=-11, output=LIBRARY, errors="native\n\n"), "killed by SIGSEGV: native"),
        (ProbeResult(code=-99, output=""), "killed by signal 99"),
        (ProbeResult(code=1, output="", errors="Traceback\nOSError: libgomp.so.1 is missing\n"), "libgomp.so.1"),
        (ProbeResult(code=3, output=""), "exit code 3"),
        (ProbeResult(code=None, output=LIBRARY), "no end after 120 s"),
        (ProbeResult(code=0, output=LIBRARY + '{"step": "error", "detail": "bad model"}\n'), "bad model"),
        (ProbeResult(code=0, output="noise\n{}\n[1]\n", errors=""), "exit code 0"),
    ],
)
def test_each_way_to_fail_names_its_cause_and_a_way_out(result: ProbeResult, said: str) -> None:
    """A signal, an exception, a hang and a refused model are told apart."""
    found = judge(machine(), result)
    assert not found.works
    assert said in found.detail
    assert "pip install" in found.advice


def test_a_missing_model_is_no_fault_of_the_backend() -> None:
    """The library loads; how to get a model is said."""
    found = judge(machine(), ProbeResult(code=0, output=LIBRARY + '{"step": "missing", "detail": "pip install x"}\n'))
    assert found.works
    assert found.advice == "pip install x"


def test_the_backend_of_this_installation_works() -> None:
    """The real probe: the native library, the small model, a reply, in a process of its own."""
    found = check_llamacpp(machine())
    assert found.works, found
    assert "tokens/s" in found.detail


def test_the_probe_tells_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for the library, for its AMX code, for the model, and for the reply with its speed."""
    probe.main("smollm2-135m")
    steps = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["library", "amx", "model", "reply"]


@pytest.mark.parametrize(("ref", "step"), [("nowhere.gguf", "missing"), (__file__, "error")])
def test_the_probe_tells_what_stopped_it(capsys: pytest.CaptureFixture[str], ref: str, step: str) -> None:
    """A model that is not there, and one that is none, are told apart."""
    probe.main(ref)
    assert [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()] == ["library", "amx", step]


def test_the_report_has_every_figure_a_bug_report_needs() -> None:
    """As text for people and as JSON for programs, with the exit code 0 where the backend works."""
    text, data = io.StringIO(), io.StringIO()
    assert diagnose(Terminal(None, text, io.StringIO())) == 0
    assert diagnose(Terminal(None, data, io.StringIO()), as_json=True) == 0
    for word in ("localllm", "Python", "processor", "memory", "llama-cpp-python", "backend llama.cpp"):
        assert word in text.getvalue()
    report = json.loads(data.getvalue())
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w-]", line)[0] for line in project["dependencies"]}
    assert len(needed) >= 10
    assert needed <= set(report["packages"])  # a bug may be any of theirs
    assert report["backends"][0]["works"] is True
    assert report["machine"]["threads"] >= 1


def test_a_machine_is_read_from_proc(tmp_path: Path) -> None:
    """Processor, features and memory come from the system's own words; a container's limit wins over the machine's."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 ssse3 fma\n\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemAvailable: 900 kB\n")
    seen = look(tmp_path)
    assert (seen.processor, seen.features) == ("Fast One", ("ssse3", "fma", "avx2"))
    assert (seen.memory_bytes, seen.available_bytes) == (1024000, 921600)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("512000\n")
    assert look(tmp_path).memory_bytes == look(tmp_path).available_bytes == 512000


def test_a_system_that_tells_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    """Without /proc the report has gaps, not an error."""
    seen = look(tmp_path)
    assert seen.features == ()
    assert seen.threads >= 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "unknown"), (512, "512 B"), (2048, "2.0 KiB"), (24 * 2**30, "24.0 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_sizes_are_told_in_units(count: int | None, text: str) -> None:
    """A person reads gibibytes, not digits."""
    assert size(count) == text

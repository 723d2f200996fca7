"""The worker's process as the parent sees it: how it is started and ended, and what it wrote to its stderr."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from localllm.backends.openmp import spin_less
from localllm.backends.worker.pipes import read_some
from localllm.errors import WorkerStartError

_log = logging.getLogger("localllm.worker")
logging.getLogger("localllm").addHandler(logging.NullHandler())  # else `logging` prints warnings to the terminal

LAST_LINES = 20
"""Lines of the worker's stderr that an error shows."""

_MAX_LINE = 2000
_ASSERTS = ("GGML_ASSERT", "GGML_ABORT", "terminate called", "MemoryError")

_running: weakref.WeakSet[WorkerProcess] = weakref.WeakSet()


class WorkerProcess:
    """A child process with three pipes, in a session of its own, so that Ctrl-C in the terminal does not reach it.

    Args:
        interpreter: The Python to run; None is the one that runs this.

    Raises:
        WorkerStartError: There is no interpreter to run, or the system refuses.
    """

    def __init__(self, interpreter: str | None = None) -> None:
        command, environment = _command(interpreter)
        try:
            self._popen = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                creationflags=_CREATION_FLAGS,
            )
        except OSError as exc:
            raise WorkerStartError(f"the worker process cannot be started: {' '.join(command)!r}: {exc}") from exc
        if self._popen.stdin is None or self._popen.stdout is None or self._popen.stderr is None:
            raise WorkerStartError("the worker process has no pipes")  # cannot be: all three were asked for
        self._pipes = (self._popen.stdin, self._popen.stdout, self._popen.stderr)
        self.in_fd: int = self._popen.stdin.fileno()
        self.out_fd: int = self._popen.stdout.fileno()
        self.pid: int = self._popen.pid
        self._lines: deque[str] = deque(maxlen=10 * LAST_LINES)
        self._asserts: deque[str] = deque(maxlen=2)
        self._ending = threading.Lock()
        self._reaped = False
        self._stderr = threading.Thread(target=self._read_stderr, name="localllm-worker-stderr", daemon=True)
        self._stderr.start()
        _running.add(self)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines that it wrote to its stderr; an assert of native code first, if it is older than those."""
        lines = list(self._lines)[-LAST_LINES:]
        return (*(line for line in self._asserts if line not in lines), *lines)

    def kill(self) -> None:
        """End it, and what it has started, at once; does nothing if it has ended. May be called from anywhere."""
        with self._ending:
            if self._reaped:
                return
            with suppress(OSError):
                if sys.platform == "win32":
                    self._popen.kill()
                else:  # not reaped yet, so the number is still its own
                    os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end; return its exit code, or minus a signal's number."""
        if hasattr(os, "waitid"):  # wait without reaping, so that `kill` never meets another process of this number
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._popen.wait()
        with self._ending:
            self._reaped = True
        return self._popen.returncode

    def close(self) -> None:
        """Close the pipes of one that has ended, once nobody else uses them."""
        self._pipes[0].close()
        self._pipes[1].close()
        # Something that it started may have kept its stderr; the thread that reads it closes it then.
        self._stderr.join(0.2)
        _running.discard(self)

    def abandon(self) -> None:
        """Let go of it in a process made by fork(): it belongs to the parent."""
        for pipe in self._pipes:
            with suppress(OSError):
                pipe.close()
        self._popen.returncode = 0  # else Popen warns that it still runs

    def _read_stderr(self) -> None:
        rest = b""
        while data := read_some(self._pipes[2].fileno()):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, rest], b""
            self._keep(lines)
        self._keep([rest])
        self._pipes[2].close()

    def _keep(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line[:_MAX_LINE].decode("utf-8", "replace").rstrip()
            if text:
                self._lines.append(text)
                if any(sign in text for sign in _ASSERTS):
                    self._asserts.append(text)
                _log.debug("%s", text)


@frozen
class Activity:
    """What the system says about a process.

    Args:
        state: The letter of its state, as in proc(5): "R" if any of its threads runs or wants to, "D" if any waits for
            a disk, else that of its first thread: "S" for one that waits, "T" for one that is stopped, and others.
        ticks: Processor time that it has used, in the system's ticks.
    """

    state: str
    ticks: int


def activity(pid: int) -> Activity | None:
    """Return what the process does, or None where the system does not tell (that is, but on Linux)."""
    try:
        fields = _stat(Path(f"/proc/{pid}/stat"))
        states = {_stat(task / "stat")[0] for task in Path(f"/proc/{pid}/task").iterdir()}
        state = next((active for active in "RD" if active in states), fields[0])
        return Activity(state, int(fields[11]) + int(fields[12]))
    except (OSError, IndexError, ValueError):
        return None


def _stat(path: Path) -> list[str]:
    """Return the fields after the name, which may hold anything; the first one is the state."""
    return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


_exiting = False


def interpreter_exits() -> bool:
    """Whether the interpreter is on its way out, so that a worker's end is neither a surprise nor worth a word."""
    return _exiting


@atexit.register
def _end_all() -> None:
    """End every worker of this process: nothing in them is worth waiting for."""
    global _exiting
    _exiting = True
    for process in list(_running):
        process.kill()
    for process in list(_running):
        process.wait()  # else Popen warns that it still runs


def _abandon_all() -> None:
    for process in list(_running):
        process.abandon()
    _running.clear()


if hasattr(os, "register_at_fork"):
    # A forked process that kept the pipes would keep the worker alive when its parent has gone.
    os.register_at_fork(after_in_child=_abandon_all)

# CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW, which `subprocess` has on Windows only: neither Ctrl-C nor a console
_CREATION_FLAGS = 0x00000200 | 0x08000000 if sys.platform == "win32" else 0


def sys_path() -> tuple[str, ...]:
    """Return where modules are found, as another process in another folder would have to write it."""
    return tuple(os.path.abspath(entry) for entry in sys.path)


def python_path() -> str | None:
    """Return the environment's PYTHONPATH, which a worker passes on to what it starts."""
    return os.environ.get("PYTHONPATH")


def _command(interpreter: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a worker."""
    environment = dict(os.environ)
    spin_less(environment)
    if interpreter is None:
        if getattr(sys, "frozen", False):
            raise WorkerStartError(
                "this is a frozen application, whose executable is no Python interpreter, so it cannot start a worker: "
                "use isolation='thread', or name an interpreter that has localllm with ModelManager(interpreter=...)"
            )
        interpreter = _own_interpreter(environment)
        if sys.flags.ignore_environment:
            environment = {name: value for name, value in environment.items() if not name.startswith("PYTHON")}
        environment["PYTHONPATH"] = os.pathsep.join(sys_path())  # until it is told better, see `Start`
    # -P: the current folder is no place to look for modules unless sys.path says so
    return [interpreter, "-P", "-m", "localllm.backends.worker"], environment


def _own_interpreter(environment: dict[str, str]) -> str:
    if not sys.executable:
        raise WorkerStartError(
            "Python does not know its own interpreter (sys.executable is empty), as in an embedded one: use "
            "isolation='thread', or name an interpreter that has localllm with ModelManager(interpreter=...)"
        )
    base: object = getattr(sys, "_base_executable", None)
    if sys.platform == "win32" and isinstance(base, str) and base != sys.executable:
        # There a virtual environment's python.exe starts the real one, whose end would not be ours to see.
        environment["__PYVENV_LAUNCHER__"] = sys.executable
        return base
    return sys.executable

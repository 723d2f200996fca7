"""How a worker ended, as an error that says so."""

from __future__ import annotations

import signal
import sys

from attrs import evolve

from localllm.backends.worker.failures import to_error, to_failure
from localllm.backends.worker.messages import EXIT_MEMORY, EXIT_PROTOCOL
from localllm.errors import LocalLLMError, WorkerCrashedError, WorkerMemoryError

_OUT_OF_MEMORY = (
    "bad_alloc",
    "MemoryError",
    "failed to allocate",
    "unable to allocate",
    "out of memory",
    "Cannot allocate",
)
_AGAIN = "The model is loaded again, in a new worker, when it is next used"


def obituary(
    *,
    doing: str,
    pid: int,
    code: int,
    lines: tuple[str, ...],
    memory_limit_bytes: int | None = None,
    pending_bytes: int = 0,
) -> WorkerCrashedError:
    """Return the error for a worker that ended on its own.

    Args:
        doing: What it did, such as "loading 'x'".
        pid: Its number.
        code: Its exit code, or minus the number of a signal.
        lines: The last lines that it wrote to its stderr.
        memory_limit_bytes: Its memory limit.
        pending_bytes: Bytes of a frame that never became whole.
    """
    name = signal_name(code)
    parts = [f"the worker (pid {pid}) ended while {doing}: {how(code)}"]
    if pending_bytes:
        parts.append(f"It broke off within a frame, after {pending_bytes} bytes of it")
    short = memory_limit_bytes is not None and (
        code == EXIT_MEMORY or any(sign in line for line in lines for sign in _OUT_OF_MEMORY)
    )
    if short:
        parts.append(f"It ran into its memory limit of {memory_limit_bytes} bytes: raise memory_limit_bytes")
    elif name == "SIGKILL":
        parts.append("Somebody killed it, perhaps the system for want of memory")
    elif code == EXIT_PROTOCOL:
        parts.append("It did not understand a message: is it another version of localllm?")
    parts.append(_AGAIN)
    if lines:
        parts.append("Its last lines:\n" + "\n".join(f"    {line}" for line in lines))
    kind = WorkerMemoryError if short else WorkerCrashedError
    return kind(". ".join(parts), exit_code=code, signal_name=name, stderr=lines)


def given_up(name: str, times: int, pause_s: float, last: LocalLLMError | None) -> WorkerCrashedError:
    """Return the error for a model whose worker is not started again for now.

    Args:
        name: The model's name.
        times: How often the worker has ended in a row.
        pause_s: For how long it is not started.
        last: Why it ended the last time.
    """
    error = WorkerCrashedError(
        f"the worker of {name} ended {times} times without a token in between, and is not started again for "
        f"{pause_s:g} s. The last time: {last}"
    )
    error.__cause__ = last
    return error


def signal_name(code: int) -> str:
    """Return the name of the signal that an exit code tells of, or nothing."""
    if code >= 0 or sys.platform == "win32":
        return ""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def how(code: int) -> str:
    """Return how a process ended, in words."""
    name = signal_name(code)
    if name:
        meaning = signal.strsignal(-code) if name.startswith("SIG") else None
        return f"{name}, {(meaning or 'unknown').lower()}"
    if code & 0xF0000000 == 0xC0000000:  # Windows: an NTSTATUS, such as 0xC0000005 for an access violation
        return f"exception 0x{code & 0xFFFFFFFF:08X}"
    return f"exit code {code}"


def own_copy(error: LocalLLMError) -> LocalLLMError:
    """Return an error that one caller may raise and add its reply to, while others do so with theirs."""
    copy = to_error(evolve(to_failure(error), cause=""))
    copy.__cause__ = error.__cause__
    return copy

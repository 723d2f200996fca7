"""Whether weights may be laid out anew for the processor, which llama.cpp calls repacking; tried where it may kill."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

from localllm.backends.llamacpp.amx_trial import RIGHT
from localllm.backends.llamacpp.library import library, system_info
from localllm.backends.openmp import spin_less

_TRIAL = Path(__file__).with_name("amx_trial.py")
_LIMIT_S = 20.0  # it takes 0.05 s on an idle machine

_log = logging.getLogger("localllm.llama")


def can_repack() -> bool:
    """Whether weights may be repacked: not so where llama.cpp was built with AMX code that does not work.

    Some releases of GCC, 12.2 among them, drop the stores to AMX's tile configuration before `ldtilecfg` (their
    intrinsic declares only the first 8 of the 64 bytes as read), so that the first batch ends in SIGSEGV:
    ggml-org/llama.cpp issue 20824. llama.cpp turns AMX and all other repacking off together.
    """
    return amx_failure() is None


@cache
def amx_failure() -> str | None:
    """Return how llama.cpp's AMX code fails on this machine; None if it works, or was not built."""
    if "AMX_INT8 = 1" not in system_info():
        return None
    failure = _try_amx(Path(library()._lib._name).parent)
    if failure is not None:
        _log.warning("AMX is not used: its code in this llama.cpp fails (%s); `localllm doctor` helps", failure)
    return failure


def _try_amx(folder: Path) -> str | None:
    """Return how the AMX code of the libraries in `folder` fails, which may take down the process that tries it."""
    if sys.platform != "linux" or getattr(sys, "frozen", False) or not sys.executable:
        return "there is no interpreter to try it in"
    return failure_of([sys.executable, "-I", "-S", str(_TRIAL), str(folder)])


def failure_of(command: list[str], limit_s: float = _LIMIT_S) -> str | None:
    """Run a trial; return how it failed, None if it said what it says when all is right.

    Args:
        command: Its command line.
        limit_s: Seconds after which it has failed.
    """
    environment = dict(os.environ)
    spin_less(environment)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {limit_s:g} s"
    except OSError as exc:
        return f"no process to try it in: {exc}"
    if done.stdout.decode("utf-8", "replace").strip() == RIGHT:
        return None
    if done.returncode >= 0:
        return f"exit code {done.returncode}"
    name = signal.Signals(-done.returncode).name if -done.returncode in list(signal.Signals) else str(-done.returncode)
    return f"killed by {name}"

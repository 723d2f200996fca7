"""Threads of llama.cpp spin little also where it runs in the application's own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from localllm.backends.openmp import SPINS

_LOAD = """
import os
from localllm.backends.llamacpp.library import library
library()
print({name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ})
"""


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
    ids=str,
)
def test_threads_in_a_process_spin_little_unless_the_user_decides(given: dict[str, str], spins: str) -> None:
    """libgomp tells what it was set to when it is loaded; the environment of the process is as it was."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    run = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env={**environment, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in run.stderr
    assert run.stdout.strip() == str(given)

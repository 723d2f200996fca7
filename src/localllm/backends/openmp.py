"""How the threads of native code wait for each other, where GNU's OpenMP runs them, as it does llama.cpp's."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

SPINS = 3000
"""How often a thread looks for the others at a barrier before it sleeps (GOMP_SPINCOUNT).

libgomp's own choice, 300,000, burns the time that the late thread needs whenever anything else runs: on two cores
beside one busy process, streams stood still for up to seconds. This is as fast when nothing else runs, which 1,000 is
not: 48 tok/s for 53. `python -m bench.spin` measures it.
"""

_NAME = "GOMP_SPINCOUNT"


def spin_less(environment: MutableMapping[str, str]) -> None:
    """Let threads spin less in a process with this environment, unless it says already how they are to wait."""
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault(_NAME, str(SPINS))


@contextmanager
def spinning_less() -> Iterator[None]:
    """While inside, whoever loads libgomp has its threads spin less; the environment is as it was afterwards."""
    before = os.environ.get(_NAME)
    spin_less(os.environ)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_NAME, None)

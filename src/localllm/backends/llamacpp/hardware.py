"""What this machine has to compute with."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Return how many physical cores this process may use; siblings of one core count once.

    Falls back to all that the system reports where it doesn't say which are siblings.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, len(cores))


def _siblings(cpu: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return topology.read_text().strip()
    except OSError:
        return str(cpu)

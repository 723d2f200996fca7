"""What this machine has to compute with."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import frozen


@frozen(kw_only=True)
class Machine:
    """What a model's defaults depend on.

    Args:
        cores: Physical cores that this process may use.
        free_bytes: Memory that is free for it; None where that isn't known.
        gpu: Whether layers are offloaded to a GPU.
    """

    cores: int
    free_bytes: int | None
    gpu: bool = False


def physical_cores() -> int:
    """Return how many physical cores this process may use; siblings of one core count once.

    Falls back to all that the system reports where it doesn't say which are siblings.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, len(cores))


def free_bytes() -> int | None:
    """Return how much memory may be taken without swapping, within the process's control group; None if not known.

    Linux only: `MemAvailable` of /proc/meminfo, and what memory.max of the group leaves.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
    left = _left_of_group(Path("/sys/fs/cgroup"))
    return free if left is None else min(free, left)


def _left_of_group(group: Path) -> int | None:
    try:
        return max(0, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _siblings(cpu: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return topology.read_text().strip()
    except OSError:
        return str(cpu)

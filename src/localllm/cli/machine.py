"""The machine as `localllm doctor` describes it: processor, memory, system; read from where the system says it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from attrs import frozen

from localllm.backends.llamacpp.hardware import physical_cores

# What llama.cpp has kernels for, by the names that Linux uses: x86 flags, then ARM's.
_RELEVANT = (
    "ssse3", "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "bmi2", "avx_vnni",
    "avx512f", "avx512bw", "avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


@frozen(kw_only=True)
class Machine:
    """What a model would run on; None is what the system does not tell.

    Args:
        system: Operating system and its release.
        architecture: Of the processor, such as "x86_64".
        processor: Its name.
        cores: Physical cores that this process may use, which is how many threads compute.
        threads: Hardware threads that this process may use.
        features: Instruction sets that matter to llama.cpp.
        memory_bytes: Memory of the machine, or of the container if that is less.
        available_bytes: What of it can be used now without swapping.
    """

    system: str
    architecture: str
    processor: str
    cores: int
    threads: int
    features: tuple[str, ...]
    memory_bytes: int | None
    available_bytes: int | None


def look(root: Path = Path("/")) -> Machine:
    """Describe this machine.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        What the system tells.
    """
    cpuinfo = _read(root / "proc/cpuinfo")
    total, available = _memory(_read(root / "proc/meminfo"))
    limit = _container_limit(root)
    if limit is not None and total is not None and limit < total:
        total, available = limit, min(limit, available or limit)
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        processor=_first(cpuinfo, "model name") or platform.processor() or "unknown",
        cores=physical_cores(),
        threads=_usable_threads(),
        features=_features(cpuinfo),
        memory_bytes=total,
        available_bytes=available,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # another system, or a container that hides it: what it would tell is then unknown
        return ""


def _first(text: str, key: str) -> str:
    match = re.search(rf"^{re.escape(key)}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _features(cpuinfo: str) -> tuple[str, ...]:
    flags = set((_first(cpuinfo, "flags") or _first(cpuinfo, "Features")).split())
    return tuple(name for name in _RELEVANT if name in flags)


def _usable_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory(meminfo: str) -> tuple[int | None, int | None]:
    """Return the machine's memory and what of it is available, in bytes."""
    total, available = _first(meminfo, "MemTotal"), _first(meminfo, "MemAvailable")
    if total:
        return _kib(total), _kib(available) if available else None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (AttributeError, OSError, ValueError):  # not a POSIX system, or one without these names
        return None, None


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _container_limit(root: Path) -> int | None:
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(root / name).strip()
        if text.isdigit():
            return int(text)
    return None

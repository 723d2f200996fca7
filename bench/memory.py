"""How much memory a tree of processes takes; Linux only."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen


@frozen
class Memory:
    """Memory of a tree of processes.

    Args:
        pss_bytes: Proportional set size: what is shared counts by its share, mapped weights included.
        anonymous_bytes: That part of it that is no mapped file.
    """

    pss_bytes: int
    anonymous_bytes: int


def memory_of_tree(pid: int) -> Memory:
    """Return the memory of a process and all its descendants."""
    pss = anonymous = 0
    for member in [pid, *_descendants(pid)]:
        sizes = _sizes(member)
        pss += sizes.get("Pss", 0)
        anonymous += sizes.get("Pss_Anon", 0)
    return Memory(pss, anonymous)


def _descendants(pid: int) -> list[int]:
    children = [child for child, parent in _parents() if parent == pid]
    return [*children, *(grandchild for child in children for grandchild in _descendants(child))]


def _parents() -> list[tuple[int, int]]:
    """Return every process with its parent."""
    pairs = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the name stands in parentheses and may hold spaces; after it come the state and the parent
            pairs.append((int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])))
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return pairs


def _sizes(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    parts = [line.split() for line in lines]
    return {name.rstrip(":"): int(size) * 1024 for name, size, *_ in parts}

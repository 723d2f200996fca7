"""Which models make room for another one: the least recently used, as few as will do. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from localllm.errors import InsufficientMemoryError


@frozen
class Occupant:
    """A model in memory, or on its way into or out of it.

    Args:
        id: Its number.
        name: What to call it.
        memory_bytes: What it takes.
        last_used_s: When it was last used.
        in_use: Why it has to stay, such as "busy"; empty if it may go.
    """

    id: int
    name: str
    memory_bytes: int
    last_used_s: float
    in_use: str = ""


def to_unload(occupants: Sequence[Occupant], needed_bytes: int, budget_bytes: int, name: str) -> tuple[int, ...]:
    """Return the numbers of the models that have to go, the least recently used first; none if there is room.

    Args:
        occupants: Who is there.
        needed_bytes: What the newcomer takes.
        budget_bytes: What all of them may take together.
        name: What to call the newcomer.

    Raises:
        InsufficientMemoryError: It would not fit even if all went that may; the message has the figures.
    """
    free = budget_bytes - needed_bytes - sum(occupant.memory_bytes for occupant in occupants)
    leaving: list[int] = []
    for occupant in sorted(occupants, key=_last_used):
        if free >= 0:
            break
        if not occupant.in_use and occupant.memory_bytes:
            free += occupant.memory_bytes
            leaving.append(occupant.id)
    if free < 0:
        raise InsufficientMemoryError(_shortage(occupants, needed_bytes, budget_bytes, name))
    return tuple(leaving)


def _shortage(occupants: Sequence[Occupant], needed_bytes: int, budget_bytes: int, name: str) -> str:
    staying = [occupant for occupant in occupants if occupant.in_use and occupant.memory_bytes]
    facts = f"{name} needs {_mib(needed_bytes)}, and memory_budget_bytes is {_mib(budget_bytes)}"
    if needed_bytes > budget_bytes:
        return f"{facts}; raise it, or load the model with a smaller ModelConfig(n_ctx=...) or a smaller model"
    held = ", ".join(f"{other.name} ({_mib(other.memory_bytes)}, {other.in_use})" for other in staying)
    return f"{facts}, of which these cannot give anything back now: {held}; wait for them, unload one, or raise it"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{count:,} bytes"


def _last_used(occupant: Occupant) -> float:
    return occupant.last_used_s

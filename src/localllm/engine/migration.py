"""Carrying sequences over to a larger context, slice by slice, while they go on in the old one. Pure.

Each step compares what the new context holds with what the old one holds by now, takes back what is no longer so, and
copies the next tokens, slice by slice, while the step has time. Cells that sequences share are copied once and shared
again. It ends with a slice after which both hold the same; from the next batch on the new context is used.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypeAlias

from attrs import frozen

from localllm.engine.cells import CellTable, Held
from localllm.engine.prefix_cache import common_prefix


@frozen
class Transfer:
    """Copy the positions from `start` to `stop` of `seq_id` from the old context to the new one."""

    seq_id: int
    start: int
    stop: int


@frozen
class Share:
    """In the new context, let `target` share the positions from `start` to `stop` of `source`."""

    source: int
    target: int
    start: int
    stop: int


@frozen
class Drop:
    """In the new context, remove what `seq_id` holds from `length` on."""

    seq_id: int
    length: int


Action: TypeAlias = Transfer | Share | Drop


class Migration:
    """What the new context holds so far, and what is to be done next.

    Args:
        can_cut: Whether sequences may be copied in parts; if not, all are copied at once.
        slice_tokens: Tokens that are copied at once; up to twice as many where they are of two sequences.
    """

    def __init__(self, *, can_cut: bool, slice_tokens: int) -> None:
        self._can_cut = can_cut
        self._slice = slice_tokens
        self._there: dict[int, array[int]] = {}  # the tokens of each sequence in the new context

    def slices(self, table: CellTable) -> Iterator[tuple[list[Action], bool]]:
        """Yield what to do next, a slice of tokens each, and whether more is to come; after all both hold the same.

        May be left off after any slice; what changes meanwhile is seen by the next call.

        Args:
            table: The account of the old context, which agrees with it now.
        """
        actions: list[Action] = list(self._take_back(table))
        left = self._slice
        for held in table.held.values():
            self._share(table, held, actions)
            there = self._there.setdefault(held.seq_id, array("i"))
            while len(there) < len(held.tokens):
                if self._can_cut and left <= 0:
                    yield actions, True
                    actions, left = [], self._slice
                size = self._slice if self._can_cut else len(held.tokens)
                part = held.tokens[len(there) : len(there) + size]
                actions.append(Transfer(held.seq_id, len(there), len(there) + len(part)))
                there.extend(part)
                left -= len(part)
        yield actions, False

    def _take_back(self, table: CellTable) -> list[Drop]:
        drops: list[Drop] = []
        for seq_id, there in list(self._there.items()):
            held = table.held.get(seq_id)
            same = common_prefix(there, held.tokens) if held is not None else 0
            if not self._can_cut and held is not None and same < len(held.tokens):
                same = 0  # it went on, and its state can only be copied as a whole
            if same < len(there):
                drops.append(Drop(seq_id, same))
                del there[same:]
            if held is None:
                del self._there[seq_id]
        return drops

    def _share(self, table: CellTable, held: Held, actions: list[Action]) -> None:
        """Share what another sequence shares with this one and has in the new context already."""
        there = self._there.setdefault(held.seq_id, array("i"))
        for other in table.held.values() if self._can_cut else ():
            other_there = self._there.get(other.seq_id)
            if other is held or other_there is None or len(other_there) <= len(there):
                continue
            shared = min(table.shared(held, other), len(other_there))
            if shared > len(there):
                actions.append(Share(other.seq_id, held.seq_id, len(there), shared))
                there.extend(held.tokens[len(there) : shared])

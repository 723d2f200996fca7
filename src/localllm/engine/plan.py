"""What one step does: made by the scheduler, carried out by the engine."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from localllm.engine.host_cache import Block
from localllm.engine.model import Work
from localllm.engine.sequence import Sequence


@frozen
class Copy:
    """Let `target` share the first `length` cells of `source`."""

    source: int
    target: int
    length: int


@frozen
class Cut:
    """Remove what `seq_id` holds from `length` on."""

    seq_id: int
    length: int


@frozen
class Load:
    """Copy what was saved of the positions from `start` to `stop` to the end of `seq_id`."""

    block: Block
    seq_id: int
    start: int
    stop: int


Move: TypeAlias = Copy | Cut


@frozen
class StepPlan:
    """One step.

    Args:
        moves: Changes of the KV cache before the batch, in order.
        works: The batch, decode tokens first.
        sequences: Whose work each is.
        prefilled: Prompt tokens in the batch, and forced ones, which cost the same.
        decoding: Decoding sequences in the batch.
    """

    moves: tuple[Move, ...]
    works: tuple[Work, ...]
    sequences: tuple[Sequence, ...]
    prefilled: int
    decoding: int

"""A model's state in a session's file: the cells of the KV cache, so that a restored session need not be read again.

The section `STAT` says what the state is of; a section `BLCK` follows for each stretch of cells: the positions where it
begins and ends (4 bytes each, little-endian), and what the backend wrote, which only the same build of it can read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from attrs import frozen

from localllm._json import JsonValue
from localllm.errors import DamagedSessionError
from localllm.saved.sections import payload_of, sections_of, write_section

HEAD, BLOCK = b"STAT", b"BLCK"
_POSITIONS = struct.Struct("<II")


@frozen
class StateHead:
    """What a state is of.

    Args:
        format: How its cells are written: the backend, its build, and the kind of its KV cache.
        model_hash: The model that computed it.
        tokens: The tokens in its cells, from the first on; there may be cells for a part of them only.
    """

    format: str
    model_hash: str
    tokens: tuple[int, ...]


@frozen
class StateBlock:
    """Cells from one position to another.

    Args:
        start: The first position.
        stop: The position after the last.
        data: What the backend wrote.
    """

    start: int
    stop: int
    data: bytes


@frozen
class StateUse:
    """What became of a state.

    Args:
        tokens: Tokens that need not be read again.
        why: Why it is not more; empty if it is all there was.
    """

    tokens: int = 0
    why: str = ""


def append_state(path: Path, offset: int, head: StateHead, blocks: Iterable[StateBlock]) -> int:
    """Write a state into a file of sections, from `offset` on; return for how many tokens it has cells.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("r+b") as file:
        file.truncate(file.seek(offset))
        return write_state(file, head, blocks)


def write_state(file: IO[bytes], head: StateHead, blocks: Iterable[StateBlock]) -> int:
    """Write a state into an open file of sections; return for how many tokens it has cells.

    Raises:
        OSError: It cannot be written.
    """
    tokens = 0
    about = {"format": head.format, "model_hash": head.model_hash, "tokens": list(head.tokens)}
    write_section(file, HEAD, json.dumps(about).encode())
    for block in blocks:
        write_section(file, BLOCK, _POSITIONS.pack(block.start, block.stop), block.data)
        tokens = block.stop
    return tokens


def read_state(path: Path) -> tuple[StateHead, Iterator[StateBlock]] | None:
    """Return the state in a session's file, its blocks read one by one as they are asked for; None if it has none.

    Raises:
        DamagedSessionError: The file is damaged; also by the iterator, if it changes meanwhile.
        OSError: It cannot be read.
    """
    sections = sections_of(path)
    heads = [section for section in sections if section.kind == HEAD]
    if not heads:
        return None
    head = head_of(path, payload_of(path, heads[0]))

    def blocks() -> Iterator[StateBlock]:
        for section in sections:
            if section.kind == BLOCK:
                yield block_of(path, payload_of(path, section))

    return head, blocks()


def block_of(path: Path, payload: bytes) -> StateBlock:
    """Return the cells that a section `BLCK` of a file holds; raises DamagedSessionError if it holds none."""
    if len(payload) < _POSITIONS.size:
        raise DamagedSessionError(f"{path} is damaged: a block of cells has no positions")
    start, stop = _POSITIONS.unpack_from(payload)
    return StateBlock(start, stop, payload[_POSITIONS.size :])


def head_of(path: Path, payload: bytes) -> StateHead:
    """Return what a section `STAT` of a file says; raises DamagedSessionError if it says nothing."""
    try:
        about: JsonValue = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise DamagedSessionError(f"{path} is damaged: what it says of its state is no JSON") from exc
    match about:
        case {"format": str(form), "model_hash": str(model_hash), "tokens": list(tokens)}:
            if all(type(token) is int and 0 <= token < 2**31 for token in tokens):
                return StateHead(form, model_hash, tuple(tokens))
        case _:
            pass
    raise DamagedSessionError(f"{path} is damaged: what it says of its state makes no sense")

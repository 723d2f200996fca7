"""What llama.cpp's memory of each kind can do and what it can't: the facts that the engine's reuse rests on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from tests.kinds.conftest import Tiny
from tests.kinds.native import N_SEQUENCES, Logits, Memory, open_memories
from tests.kinds.tiny_kinds import WINDOW

NOISE = 0.01
"""What other portions change in the logits is well below it (0.001 at worst), what a wrong state changes far above."""

_rng = np.random.default_rng(3)
TOKENS = [int(token) for token in _rng.integers(3, 260, 200)]
TAIL = [int(token) for token in _rng.integers(3, 260, 8)]
MIDDLE = 128
END = len(TOKENS)


@pytest.fixture
def memories(tiny: Tiny) -> Iterator[list[Memory]]:
    """Two empty contexts."""
    with open_memories(tiny.path, 2) as opened:
        yield opened


@pytest.fixture
def memory(memories: list[Memory]) -> Memory:
    """An empty context."""
    return memories[0]


def fresh(memories: list[Memory], length: int) -> Logits:
    """Return the logits after the first tokens and the tail, with nothing else in the context."""
    spare = memories[1]
    spare.cut(0, 0)
    spare.read(0, 0, TOKENS[:length])
    return spare.read(0, length, TAIL, 1)


def same(first: Logits, second: Logits) -> bool:
    """Whether logits are those of the same past."""
    return bool(np.abs(first - second).max() < NOISE)


def test_a_whole_copy_and_its_source_go_their_own_ways(memories: list[Memory], memory: Memory) -> None:
    """A copy at a boundary is a checkpoint: the source goes on, and the copy can be copied again."""
    memory.read(0, 0, TOKENS[:MIDDLE])
    memory.copy(0, 1, MIDDLE)
    memory.read(0, MIDDLE, TOKENS[MIDDLE:])
    memory.copy(1, 2, MIDDLE)
    for seq_id in (2, 1):
        assert same(memory.read(seq_id, MIDDLE, TAIL, 1), fresh(memories, MIDDLE))
    assert same(memory.read(0, END, TAIL, 1), fresh(memories, END))


def test_what_was_saved_goes_on_in_any_sequence_and_context(memories: list[Memory], memory: Memory) -> None:
    """Also in the place of something else, and while the source goes on."""
    expected = fresh(memories, END)
    memory.read(0, 0, TOKENS)
    saved = memory.save(0)
    memory.read(0, END, TAIL)
    memories[1].read(3, 0, TOKENS[50:90])
    for place, seq_id in ((memory, 4), (memories[1], 3)):
        place.load(seq_id, saved)
        assert place.span(seq_id)[1] == END - 1
        assert same(place.read(seq_id, END, TAIL, 1), expected)


def test_a_checkpoint_restores_a_beginning(memories: list[Memory], memory: Memory) -> None:
    """The part that changes with each token, put over a copy of the cells or over the sequence itself."""
    memory.read(0, 0, TOKENS[:MIDDLE])
    checkpoint = memory.save(0, current_only=True)
    memory.read(0, MIDDLE, TOKENS[MIDDLE:])
    memory.copy(0, 1, MIDDLE)
    memory.load(1, checkpoint, current_only=True)
    assert same(memory.read(1, MIDDLE, TAIL, 1), fresh(memories, MIDDLE))
    whole = memory.save(0)
    assert same(memory.read(0, END, TAIL, 1), fresh(memories, END))
    for seq_id in (0, 2):  # in place, and over what came back from host memory
        memory.load(seq_id, whole)
        memory.load(seq_id, checkpoint, current_only=True)
        assert memory.cut(seq_id, MIDDLE)
        assert same(memory.read(seq_id, MIDDLE, TAIL, 1), fresh(memories, MIDDLE))


def test_a_checkpoint_is_no_larger_for_a_longer_sequence(tiny: Tiny, memory: Memory) -> None:
    """A recurrent model's is all there is to save; the others' leave out what can be cut."""
    memory.read(0, 0, TOKENS[:MIDDLE])
    early = memory.save(0, current_only=True)
    memory.read(0, MIDDLE, TOKENS[MIDDLE:])
    assert len(memory.save(0, current_only=True)) == len(early)
    if tiny.kind == "mamba2":
        assert len(memory.save(0)) == len(early)
    else:
        assert len(memory.save(0)) > len(early)


@pytest.mark.parametrize("tiny", ["mamba2", "hybrid"], indirect=True)
def test_a_state_can_be_neither_cut_nor_copied_in_part(tiny: Tiny, memories: list[Memory], memory: Memory) -> None:
    """A cut is refused and harms nothing. A copy of a part is not refused: it takes the newest state along."""
    memory.read(0, 0, TOKENS)
    assert not memory.cut(0, END - 1)
    assert memory.span(0) == (END - 1, END - 1)
    assert same(memory.read(0, END, TAIL, 1), fresh(memories, END))
    memory.copy(0, 1, MIDDLE)
    if tiny.kind == "mamba2":
        assert memory.span(1) == memory.span(0)
        assert memory.decode([(1, MIDDLE, TAIL)]) is None
    else:
        logits = memory.decode([(1, MIDDLE, TAIL)])
        assert logits is None or not same(logits[0], fresh(memories, MIDDLE))


@pytest.mark.parametrize("tiny", ["sliding"], indirect=True)
def test_a_window_is_all_that_is_saved(memories: list[Memory], memory: Memory) -> None:
    """A sliding model's sequence goes on from its end after it was loaded; it has lost what a cut would need."""
    memory.read(0, 0, TOKENS)
    assert memory.span(0) == (0, END - 1)
    memory.load(1, memory.save(0))
    assert memory.span(1) == (END - WINDOW, END - 1)
    assert memory.cut(1, END - WINDOW + 4)
    wrong = memory.read(1, END - WINDOW + 4, TAIL, 1)
    assert not same(wrong, fresh(memories, END - WINDOW + 4))


@pytest.mark.parametrize("tiny", ["sliding"], indirect=True)
def test_others_take_the_cells_behind_a_window(memories: list[Memory], memory: Memory) -> None:
    """Even with a full-size cache. A beginning can be copied while the window before its end is there, no longer."""
    memory.read(5, 0, TOKENS[60:100])
    memory.read(0, 0, TOKENS)
    memory.cut(5, 0)
    memory.read(4, 0, TOKENS[20:120])  # into the 40 cells that are free, then into those of sequence 0
    first = memory.span(0)[0]
    assert first > 0
    usable = first + WINDOW - 1
    memory.copy(0, 1, usable)
    assert same(memory.read(1, usable, TAIL, 1), fresh(memories, usable))
    memory.copy(0, 2, first + 4)
    assert not same(memory.read(2, first + 4, TAIL, 1), fresh(memories, first + 4))
    assert same(memory.read(0, END, TAIL, 1), fresh(memories, END))


@pytest.mark.parametrize("tiny", ["sliding"], indirect=True)
def test_cells_that_two_sequences_hold_are_not_taken(memories: list[Memory], memory: Memory) -> None:
    """A twin that shares all cells of a sequence keeps them for it, so that any beginning can be copied."""
    memory.read(5, 0, TOKENS[60:100])
    for start in range(0, END, 50):
        memory.read(0, start, TOKENS[start : start + 50])
        memory.copy(0, 3, start + 50, start)
    memory.cut(5, 0)
    memory.read(4, 0, TOKENS[20:120])
    assert memory.span(0) == (0, END - 1)
    for length in (10, MIDDLE, END - 1):
        memory.copy(0, 1, length)
        assert same(memory.read(1, length, TAIL, 1), fresh(memories, length))
        memory.cut(1, 0)


@pytest.mark.parametrize("tiny", ["sliding"], indirect=True)
@pytest.mark.parametrize("size", [WINDOW // 2, WINDOW])
def test_blocks_no_longer_than_a_window_are_saved_whole(memories: list[Memory], memory: Memory, size: int) -> None:
    """By way of a scratch sequence; what comes back can be cut and copied like the sequence itself."""
    memory.read(0, 0, TOKENS)
    blocks = []
    for start in range(0, END, size):
        memory.copy(0, 5, start + size, start)
        blocks.append(memory.save(5))
        memory.cut(5, 0)
    for seq_id in range(N_SEQUENCES):
        memory.cut(seq_id, 0)
    for start, block in zip(range(0, END, size), blocks, strict=True):
        memory.load(5, block)
        memory.copy(5, 2, start + size, start)
        memory.cut(5, 0)
    assert memory.span(2) == (0, END - 1)
    memory.copy(2, 1, MIDDLE)
    assert same(memory.read(1, MIDDLE, TAIL, 1), fresh(memories, MIDDLE))
    assert same(memory.read(2, END, TAIL, 1), fresh(memories, END))


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_batches_copies_saves_and_checkpoints_keeps_every_past(memories: list[Memory], seed: int) -> None:
    """Whatever the sequences went through, each one's logits are those of its tokens read alone."""
    memory, spare = memories
    walk = _Walk(memory, spare, random.Random(seed))
    for _ in range(60):
        walk.step()
    assert walk.checked > 20


class _Walk:
    """Random operations on a context, checked against another one that reads everything anew."""

    def __init__(self, memory: Memory, spare: Memory, rng: random.Random) -> None:
        self.checked = 0
        self._memory, self._spare, self._rng = memory, spare, rng
        self._held: dict[int, list[int]] = {seq_id: [] for seq_id in range(N_SEQUENCES)}
        self._saved: list[tuple[list[int], bytes]] = []
        self._checkpoints: list[tuple[list[int], bytes]] = []

    def step(self) -> None:
        """Do one operation."""
        operations = (self._decode, self._decode, self._decode, self._copy, self._save, self._load, self._restore)
        self._rng.choice(operations)()
        for seq_id, tokens in self._held.items():
            assert self._memory.span(seq_id)[1] == len(tokens) - 1

    def _decode(self) -> None:
        chosen = self._rng.sample(range(N_SEQUENCES), self._rng.randint(1, N_SEQUENCES))
        works = [
            (
                seq_id,
                len(self._held[seq_id]),
                [self._rng.randint(3, 259) for _ in range(self._rng.choice((1, 1, 3, 9)))],
            )
            for seq_id in chosen
            if len(self._held[seq_id]) < 60
        ]
        if not works:
            return
        logits = self._memory.decode(works)
        assert logits is not None
        for (seq_id, _, tokens), found in zip(works, logits, strict=True):
            self._held[seq_id] = self._held[seq_id] + tokens
            self._spare.cut(0, 0)
            assert same(found, self._spare.read(0, 0, self._held[seq_id]))
            self.checked += 1

    def _copy(self) -> None:
        source, target = self._rng.sample(range(N_SEQUENCES), 2)
        self._memory.cut(target, 0)
        self._memory.copy(source, target, len(self._held[source]))
        self._held[target] = self._held[source]

    def _save(self) -> None:
        seq_id = self._rng.randrange(N_SEQUENCES)
        tokens = self._held[seq_id]
        if tokens:
            self._saved.append((tokens, self._memory.save(seq_id)))
            self._checkpoints.append((tokens, self._memory.save(seq_id, current_only=True)))

    def _load(self) -> None:
        if self._saved:
            tokens, data = self._rng.choice(self._saved)
            target = self._rng.randrange(N_SEQUENCES)
            self._memory.cut(target, 0)
            self._memory.load(target, data)
            self._held[target] = tokens

    def _restore(self) -> None:
        """Restore a checkpoint over a copy of a sequence that went on from it."""
        fits = [
            (source, tokens, data)
            for tokens, data in self._checkpoints
            for source, held in self._held.items()
            if len(held) > len(tokens) and held[: len(tokens)] == tokens
        ]
        if fits:
            source, tokens, data = self._rng.choice(fits)
            target = self._rng.choice([seq_id for seq_id in self._held if seq_id != source])
            self._memory.cut(target, 0)
            self._memory.copy(source, target, len(tokens))
            self._memory.load(target, data, current_only=True)
            self._held[target] = tokens

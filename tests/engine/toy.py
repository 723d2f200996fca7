"""A deterministic toy model behind the engine's token-level seam.

The next token is a hash of all tokens before it, so that a sequence whose cells are wrong in any way (a lost, stale or
foreign token, a wrong position) goes on differently. It checks what a real context would assert: positions without
holes, room for each cell, copies into empty sequences only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from localllm.engine.model import DecodeError, NoRoomError, Work
from localllm.options import RequestOptions

VOCAB = 97
END = 0


def next_token(tokens: Sequence[int]) -> int:
    """Return what follows `tokens`; the end about once in sixteen tokens."""
    digest = hashlib.blake2b(bytes(str(list(tokens)), "ascii"), digest_size=4).digest()
    value = int.from_bytes(digest, "big")
    return END if value % 16 == 0 else 1 + value % (VOCAB - 1)


def solo(prompt: Sequence[int], max_new: int) -> list[int]:
    """Return what the toy generates for a prompt when it runs alone."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < max_new:
        token = next_token(tokens)
        if token == END:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


class ToySampler:
    """Greedy; nothing to remember."""

    def accept(self, token: int) -> None:
        """Take note of nothing."""

    def close(self) -> None:
        """Free nothing."""


class ToyContext:
    """Cells as a list of (token, holders) like llama.cpp's unified cache."""

    def __init__(self, n_cells: int, n_sequences: int, *, can_cut: bool = True) -> None:
        self.n_cells = n_cells
        self.n_sequences = n_sequences
        self.can_cut = can_cut
        self.cells: list[tuple[int, int, set[int]]] = []  # position, token, who holds it
        self.closed = False
        self.fail_next = False
        self._logits: dict[int, list[int]] = {}

    def tokens_of(self, seq_id: int) -> list[int]:
        """Return what a sequence holds, by position; positions must have no holes."""
        mine = sorted((position, token) for position, token, holders in self.cells if seq_id in holders)
        assert [position for position, _ in mine] == list(range(len(mine)))
        return [token for _, token in mine]

    def decode(self, works: Sequence[Work]) -> list[int]:
        """Add the works' cells; where logits are wanted, keep the whole sequence for `sample`."""
        assert not self.closed
        if self.fail_next:
            self.fail_next = False
            raise DecodeError("the toy was told to fail")
        if len(self.cells) + sum(len(work.tokens) for work in works) > self.n_cells:
            raise NoRoomError
        outputs = []
        self._logits.clear()
        for index, work in enumerate(works):
            assert 0 <= work.seq_id < self.n_sequences
            assert len(self.tokens_of(work.seq_id)) == work.start
            for offset, token in enumerate(work.tokens):
                self.cells.append((work.start + offset, token, {work.seq_id}))
            if work.sample:
                self._logits[index] = self.tokens_of(work.seq_id)
            outputs.append(index if work.sample else -1)
        return outputs

    def sample(self, output: int, sampler: object) -> int:
        """Return the token that follows."""
        return next_token(self._logits[output])

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Share cells."""
        assert len(self.tokens_of(target)) == start
        assert start == 0 or self.can_cut
        assert len(self.tokens_of(source)) >= stop
        for position, _, holders in self.cells:
            if source in holders and start <= position < stop:
                holders.add(target)

    def cut(self, seq_id: int, length: int) -> None:
        """Give cells up; those that nobody holds are free."""
        assert self.can_cut or length in (0, len(self.tokens_of(seq_id)))
        for position, _, holders in self.cells:
            if position >= length:
                holders.discard(seq_id)
        self.cells = [cell for cell in self.cells if cell[2]]

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Return the start and the tokens."""
        tokens = self.tokens_of(seq_id)
        assert 0 <= start < stop <= len(tokens)
        assert self.can_cut or (start, stop) == (0, len(tokens))
        return bytes([start, *tokens[start:stop]])

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Put tokens back."""
        first, tokens = data[0], data[1:]
        assert len(self.tokens_of(seq_id)) == start
        assert first <= start < stop <= first + len(tokens)
        assert self.can_cut or (first, start, stop) == (0, 0, len(tokens))
        assert len(self.cells) + (stop - start) <= self.n_cells
        self.cells += [(position, tokens[position - first], {seq_id}) for position in range(start, stop)]

    def close(self) -> None:
        """Free it."""
        self.closed = True


class ToyModel:
    """Opens toy contexts and remembers them, so that tests can look inside."""

    def __init__(self, *, can_cut: bool = True) -> None:
        self.can_cut = can_cut
        self.part_tokens = 8
        self.contexts: list[ToyContext] = []

    def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
        """Return a new context."""
        self.contexts.append(ToyContext(n_cells, n_sequences, can_cut=self.can_cut))
        return self.contexts[-1]

    def make_sampler(self, options: RequestOptions, prompt: Sequence[int]) -> ToySampler:
        """Return a sampler."""
        return ToySampler()

    def is_end(self, token: int) -> bool:
        """Whether it is the end."""
        return token == END

    def piece(self, token: int) -> bytes:
        """Return the token as a word."""
        return f"{token} ".encode()

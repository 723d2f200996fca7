"""A deterministic toy model behind the engine's token-level seam.

The next token is a hash of all tokens before it, so that a sequence whose cells are wrong in any way (a lost, stale or
foreign token, a wrong position) goes on differently. It checks what a real context would assert: positions without
holes, room for each cell, copies into empty sequences only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from localllm.engine.constraint import Constraint
from localllm.engine.model import DecodeError, Distribution, NoRoomError, Work
from localllm.errors import BackendError
from localllm.options import RequestOptions
from localllm.types import TextDelta, ToolCall, ToolCallEvent

VOCAB = 97
END = 0
CLOSE = 4  # the token that ends a thought


def _hash(tokens: Sequence[int], salt: str = "") -> int:
    return int.from_bytes(hashlib.blake2b(bytes(f"{salt}{list(tokens)}", "ascii"), digest_size=4).digest(), "big")


def opens(token: int) -> bool:
    """Whether the token begins a thought: about one in sixteen does."""
    return token % 16 == 5


def next_token(tokens: Sequence[int]) -> int:
    """Return what follows `tokens`; the end about once in sixteen tokens."""
    value = _hash(tokens)
    return END if value % 16 == 0 else 1 + value % (VOCAB - 1)


def solo(prompt: Sequence[int], max_new: int, grammar: str = "", most_thought: int | None = None) -> list[int]:
    """Return what the toy generates for a prompt when it runs alone, one token after the other."""
    tokens = list(prompt)
    constraint = ToyConstraint(grammar) if grammar else None
    thought, thinking = 0, False
    while len(tokens) - len(prompt) < max_new and not (constraint is not None and constraint.stopped):
        token = next_token(tokens)
        if most_thought is not None and thinking and thought >= most_thought:
            token = CLOSE
        elif constraint is not None:
            token = constraint.nearest(token)
        if token == END:
            break
        if constraint is not None:
            constraint.accept([token])
        thought += thinking
        thinking = opens(token) or (thinking and token != CLOSE)
        tokens.append(token)
    return tokens[len(prompt) :]


class ToyConstraint:
    """A grammar made of hashes: runs that are forced, sets of tokens that are allowed, an end.

    Args:
        seed: Which grammar.
        wide: The tokens that it allows everywhere.
    """

    def __init__(self, seed: str, wide: Sequence[int] = (CLOSE,)) -> None:
        self.seed = seed
        self.wide = wide
        self.said: list[int] = []
        self.prepared = 0

    @property
    def stopped(self) -> bool:
        """About once in thirty tokens."""
        return bool(self.said) and _hash(self.said, self.seed) % 31 == 0

    def accept(self, tokens: Sequence[int]) -> None:
        """Take note of tokens, all of which it must allow."""
        for token in tokens:
            if self.stopped or not (self.nearest(token) == token or token in self.wide):
                raise BackendError(f"{token} is not allowed after {self.said}")
            self.said.append(token)

    def allows(self, tokens: Sequence[int]) -> bool:
        """Whether all are tokens that are allowed everywhere."""
        return all(token in self.wide for token in tokens)

    def forced(self) -> list[int]:
        """Return the run that must follow."""
        run: list[int] = []
        while (token := self._only([*self.said, *run])) is not None:
            run.append(token)
        return run

    def prepare(self) -> None:
        """Count the masks."""
        assert not self.stopped, "a mask for a reply that is whole"
        self.prepared += 1

    def nearest(self, token: int) -> int:
        """Return `token`, or another if it is not allowed."""
        only = self._only(self.said)
        if only is not None:
            return only
        value = _hash(self.said, self.seed)
        if token == END and value % 4 == 0:
            return END
        token = token or 1 + value % 9
        return token if (token + value) % 3 else token - 1 or 2

    def _only(self, said: Sequence[int]) -> int | None:
        """Return the token that must follow, if it is one; such places come in runs."""
        value = _hash(said, self.seed)
        if value % 31 == 0 and said:
            return None
        length = _hash(said[: len(said) // 24 * 24], self.seed) % 24
        return 10 + value % 50 if len(said) % 24 < length else None


class ToyFold:
    """Takes what stands between a token that opens a thought and `CLOSE` for one, both of them included."""

    def __init__(self) -> None:
        self.thinking = False
        self.close_thought = f"{CLOSE} "
        self.calls: tuple[ToolCall, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.taken_chars: int = 0

    def push(self, text: str) -> list[TextDelta | ToolCallEvent]:
        """Return a delta for each word."""
        events: list[TextDelta | ToolCallEvent] = []
        for word in text.split():
            thought = self.thinking or opens(int(word))
            events.append(TextDelta(f"{word} ", "thought" if thought else "text"))
            self.thinking = thought and int(word) != CLOSE
        return events

    def flush(self) -> list[TextDelta | ToolCallEvent]:
        """Nothing is ever held back."""
        return []


class ToyDistribution:
    """Likelier the nearer a token is to the one that follows."""

    def __init__(self, token: int) -> None:
        self._token = token

    def of(self, token: int) -> float:
        """Return minus the distance."""
        return -float(abs(token - self._token))

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return the nearest tokens."""
        return sorted(((token, self.of(token)) for token in range(VOCAB)), key=lambda pair: -pair[1])[:count]


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

    def sample(self, output: int, sampler: object, constraint: Constraint | None = None) -> int:
        """Return the token that follows, as far as it is allowed."""
        token = next_token(self._logits[output])
        if constraint is None:
            return token
        assert isinstance(constraint, ToyConstraint)
        return constraint.nearest(token)

    def distribution(self, output: int) -> Distribution:
        """Return one around the token that follows."""
        return ToyDistribution(next_token(self._logits[output]))

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

    def spell(self, token: int) -> bytes:
        """Return the token as a word."""
        return self.piece(token)

    def encode_markup(self, text: str) -> list[int]:
        """Return the words as tokens."""
        return [int(word) for word in text.split()]

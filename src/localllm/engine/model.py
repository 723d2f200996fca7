"""The token-level seam: what the engine needs of a model, so that it also runs over a toy one.

A `TokenModel` is the weights; a `TokenContext` is a KV cache over them, and the only thing that computes. Only the
engine's thread uses a context and its samplers. Positions of a sequence in a context count from 0 without holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from localllm.options import RequestOptions


class DecodeError(Exception):
    """A batch could not be computed and the context can no longer be trusted."""


class NoRoomError(Exception):
    """The KV cache has no free cells for a batch; nothing was changed."""


@frozen
class Work:
    """Tokens of one sequence to compute in one step.

    Args:
        seq_id: The context's sequence.
        start: Position of the first token.
        tokens: The tokens, at least one.
        sample: Whether the logits after the last of them are wanted.
    """

    seq_id: int
    start: int
    tokens: Sequence[int]
    sample: bool


class Sampler(Protocol):
    """Chooses tokens for one request; remembers what its penalties need."""

    def accept(self, token: int) -> None:
        """Take note of a prompt token."""

    def close(self) -> None:
        """Free it; a second call does nothing."""


class TokenContext(Protocol):
    """A KV cache and the computation over it."""

    @property
    def n_cells(self) -> int:
        """Tokens that all sequences may hold together; a cell shared by sequences counts once."""

    @property
    def n_sequences(self) -> int:
        """Sequence ids: 0 up to this, exclusive."""

    def decode(self, works: Sequence[Work]) -> Sequence[int]:
        """Compute a batch and return, for each work, where its logits are, or -1 if it wants none.

        Raises:
            NoRoomError: There are no free cells; nothing was changed.
            DecodeError: Anything else; the content of the context is unknown from now on.
        """

    def sample(self, output: int, sampler: Sampler) -> int:
        """Choose the next token from the logits at `output` of the last batch, and let the sampler remember it."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target`, which is empty, share the first `length` cells of `source`."""

    def cut(self, seq_id: int, length: int) -> None:
        """Remove what `seq_id` holds from position `length` on; 0 empties it."""

    def save(self, seq_id: int) -> bytes:
        """Return the content of a sequence's cells; opaque, for `load` in a context of the same model."""

    def load(self, seq_id: int, data: bytes) -> None:
        """Give the empty `seq_id` cells with the content that `save` returned.

        Raises:
            DecodeError: It does not fit; the content of the context is unknown from now on.
        """

    def close(self) -> None:
        """Free it; a second call does nothing."""


class TokenModel(Protocol):
    """A model's weights and vocabulary."""

    @property
    def can_cut(self) -> bool:
        """Whether a sequence may be cut and copied in part; not so for recurrent and hybrid models."""

    def open_context(self, n_cells: int, n_sequences: int) -> TokenContext:
        """Return a new, empty context.

        Raises:
            MemoryError: There is no memory for it.
        """

    def make_sampler(self, options: RequestOptions, prompt: Sequence[int]) -> Sampler:
        """Return a sampler for one request that has taken note of the prompt where its options look back."""

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""

    def piece(self, token: int) -> bytes:
        """Return the token's text as UTF-8 bytes, possibly a part of a character; empty for control tokens."""

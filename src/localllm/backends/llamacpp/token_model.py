"""llama.cpp behind the engine's token-level seam, and behind the renderer's view of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

from attrs import frozen

from localllm.backends.llamacpp.bindings import ContextParams, KvType, NativeContext, NativeModel
from localllm.backends.llamacpp.constraint import MaskConstraint
from localllm.backends.llamacpp.logits import Candidates, LogProbabilities, forbid, logits_at
from localllm.backends.llamacpp.rope import Rope
from localllm.backends.llamacpp.sampling import ChainSampler
from localllm.chat.vocabulary import is_structure
from localllm.engine.constraint import Constraint
from localllm.engine.host_cache import BLOCK_TOKENS
from localllm.engine.model import Distribution, Sampler, TokenContext, Work
from localllm.options import RequestOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEW = 4
"""A grammar that leaves less than one in so many tokens leaves few: where both ways were measured to cost the same."""


@frozen(kw_only=True)
class Compute:
    """How contexts of a model compute.

    Args:
        threads: Threads that compute.
        n_batch: Tokens of a batch at most.
        n_outputs: Tokens of a batch at most whose logits are wanted.
        kv_type: Precision of the KV cache.
        flash_attention: Whether attention is computed in one fused step.
        rope: How positions are encoded.
    """

    threads: int
    n_batch: int
    n_outputs: int
    kv_type: KvType
    flash_attention: bool
    rope: Rope = Rope()


class LlamaContext:
    """A `TokenContext` of llama.cpp's.

    Parts of a sequence are saved and loaded by way of a scratch sequence: llama.cpp saves whole sequences only, and
    sharing cells with another one is free.

    Where attention has a sliding window, llama.cpp takes cells behind a sequence's window for others, though a copy of
    the sequence's beginning would need them. It spares cells that two sequences hold; so each has a twin.

    Args:
        native: The context, with one sequence id more than the engine is told of, or twins of all of them.
        n_sequences: Sequence ids that the engine is told of.
        n_cells: Cells that the engine is told of.
    """

    def __init__(self, native: NativeContext, n_sequences: int, n_cells: int) -> None:
        self._native = native
        self.n_cells = n_cells
        self.n_sequences = n_sequences
        self._n_vocab = native.n_vocab
        self._candidates: Candidates | None = None
        self._scratch = n_sequences
        self._has_twins = native.n_sequences > n_sequences + 1

    def decode(self, works: Sequence[Work]) -> list[int]:
        """Compute a batch; see `TokenContext.decode`."""
        outputs = self._native.decode(works)
        if self._has_twins:
            for work in works:
                self._copy_to_twin(work.seq_id, work.start, work.start + len(work.tokens))
        return outputs

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Let `target` share the positions from `start` to `stop` of `source`."""
        self._native.copy(source, target, start, stop)
        if self._has_twins:
            self._copy_to_twin(target, start, stop)

    def cut(self, seq_id: int, length: int) -> None:
        """Remove what `seq_id` holds from position `length` on."""
        self._native.cut(seq_id, length)
        if self._has_twins:
            self._native.cut(self._twin(seq_id), length)

    def _twin(self, seq_id: int) -> int:
        return self._scratch + 1 + seq_id

    def _copy_to_twin(self, seq_id: int, start: int, stop: int) -> None:
        self._native.copy(seq_id, self._twin(seq_id), start, stop)

    def save(self, seq_id: int, start: int, stop: int) -> bytes:
        """Return the content of a sequence's cells; see `TokenContext.save`."""
        if not self._native.can_copy_parts:
            return self._native.save(seq_id)
        self._native.copy(seq_id, self._scratch, start, stop)
        try:
            return self._native.save(self._scratch)
        finally:
            self._native.cut(self._scratch, 0)

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Put positions of what was saved at the end of a sequence; see `TokenContext.load`."""
        if not self._native.can_copy_parts:
            self._native.load(seq_id, data)
            return
        self._native.load(self._scratch, data)
        self.copy(self._scratch, seq_id, start, stop)
        self._native.cut(self._scratch, 0)

    def close(self) -> None:
        """Free it."""
        self._native.close()

    def sample(self, output: int, sampler: Sampler, constraint: Constraint | None = None) -> int:
        """Choose the next token from the logits at `output` of the last batch; see `TokenContext.sample`.

        A grammar's mask is put on the logits themselves. Where it leaves few tokens, the chain is given those alone,
        which is faster; and so it is where a sampler cannot do with impossible tokens: they make NaN of its entropy.
        The likeliest token needs no chain, which would copy all logits first (0.13 ms for 49,152 tokens).
        """
        if not isinstance(sampler, ChainSampler):
            raise TypeError(f"a llama.cpp context samples with a ChainSampler, not {type(sampler).__name__}")
        if constraint is not None and not isinstance(constraint, MaskConstraint):
            raise TypeError(f"a llama.cpp context knows a MaskConstraint, not a {type(constraint).__name__}")
        allowed = None if constraint is None else constraint.allowed()
        if allowed is None:
            return self._likeliest(output, sampler) if sampler.greedy else self._native.sample(output, sampler.chain)
        logits = self._logits(output)
        if sampler.needs_possible or int(allowed.sum()) < self._n_vocab // _FEW:
            if self._candidates is None:
                self._candidates = Candidates(self._n_vocab)
            return self._candidates.choose(sampler.chain, allowed.nonzero()[0], logits)
        forbid(logits, allowed)
        return self._likeliest(output, sampler) if sampler.greedy else self._native.sample(output, sampler.chain)

    def _likeliest(self, output: int, sampler: ChainSampler) -> int:
        logits = self._logits(output)
        token = int(logits.argmax())
        # NaN is the largest here, and never to llama.cpp
        return self._native.sample(output, sampler.chain) if isnan(logits[token]) else token

    def distribution(self, output: int) -> Distribution:
        """Return the raw distribution at `output` of the last batch."""
        return LogProbabilities(self._logits(output))

    def _logits(self, output: int) -> NDArray[np.float32]:
        return logits_at(self._native.logits_address(output), self._n_vocab)


class LlamaTokenModel:
    """A `TokenModel` of llama.cpp's.

    Args:
        native: The weights.
        compute: How contexts compute.
    """

    def __init__(self, native: NativeModel, compute: Compute) -> None:
        self._native = native
        self._compute = compute
        self.can_cut: bool = native.can_cut
        self.part_tokens: int = native.n_swa or native.n_ctx_train
        self._ends = {token for token in range(native.n_vocab) if native.is_end(token)}

    def piece(self, token: int) -> bytes:
        """Return what the token stands for in text."""
        return self._native.piece(token)

    def spell(self, token: int) -> bytes:
        """Return the token's text, control tokens spelled out."""
        return self._native.detokenize((token,))

    def encode_markup(self, text: str) -> Sequence[int]:
        """Return the tokens of a text of ours, in which control tokens are spelled out."""
        return self._native.tokenize(text, parse_special=True)

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return token in self._ends

    def open_context(self, n_cells: int, n_sequences: int) -> TokenContext:
        """Return a new, empty context; raises MemoryError if there is no memory for it."""
        compute = self._compute
        native = NativeContext(
            self._native,
            ContextParams(
                n_ctx=n_cells + BLOCK_TOKENS,
                n_sequences=1 + n_sequences * (2 if self._native.n_swa and self.can_cut else 1),
                n_batch=compute.n_batch,
                n_outputs=min(compute.n_outputs, n_sequences),
                threads=compute.threads,
                kv_type=compute.kv_type,
                flash_attention=compute.flash_attention,
                rope=compute.rope,
            ),
        )
        return LlamaContext(native, n_sequences, n_cells)

    def make_sampler(self, options: RequestOptions, prompt: Sequence[int]) -> ChainSampler:
        """Return a sampler for one request."""
        return ChainSampler(self._native, options, prompt)


def _special_tokens(native: NativeModel) -> Iterator[tuple[str, int]]:
    for token in range(native.n_vocab):
        if native.is_control(token):
            yield native.token_text(token), token
        elif native.is_user_defined(token) and is_structure(text := native.token_text(token)):
            yield text, token


class LlamaVocabulary:
    """A `localllm.chat.vocabulary.Vocabulary` of llama.cpp's. Safe from any thread.

    Args:
        native: The model.
        model_hash: The model's identity.
    """

    def __init__(self, native: NativeModel, model_hash: str) -> None:
        self._native = native
        self.model_hash = model_hash
        self.bos_id: int | None = native.bos
        self.adds_bos: bool = native.adds_bos
        self.bos_text: str = "" if native.bos is None else native.token_text(native.bos)
        self.eos_text: str = "" if native.eos is None else native.token_text(native.eos)
        self.special_tokens: Mapping[str, int] = dict(_special_tokens(native))

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of `text`, none added."""
        return self._native.tokenize(text, parse_special=parse_special)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out."""
        return self._native.detokenize(tokens).decode("utf-8", "replace")

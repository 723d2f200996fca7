"""llama.cpp behind the engine's token-level seam, and behind the renderer's view of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen

from localllm.backends.llamacpp.bindings import ContextParams, KvType, NativeContext, NativeModel
from localllm.backends.llamacpp.sampling import ChainSampler
from localllm.chat.vocabulary import is_structure
from localllm.engine.model import Sampler, TokenContext, Work
from localllm.options import RequestOptions


@frozen(kw_only=True)
class Compute:
    """How contexts of a model compute.

    Args:
        threads: Threads that compute.
        n_batch: Tokens of a batch at most.
        n_outputs: Tokens of a batch at most whose logits are wanted.
        kv_type: Precision of the KV cache.
        flash_attention: Whether attention is computed in one fused step.
    """

    threads: int
    n_batch: int
    n_outputs: int
    kv_type: KvType
    flash_attention: bool


class LlamaContext:
    """A `TokenContext` of llama.cpp's."""

    def __init__(self, native: NativeContext, n_cells: int) -> None:
        self._native = native
        self.n_cells = n_cells
        self.n_sequences: int = native.n_sequences

    def decode(self, works: Sequence[Work]) -> list[int]:
        """Compute a batch; see `TokenContext.decode`."""
        return self._native.decode(works)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` cells of `source`."""
        self._native.copy(source, target, length)

    def cut(self, seq_id: int, length: int) -> None:
        """Remove what `seq_id` holds from position `length` on."""
        self._native.cut(seq_id, length)

    def save(self, seq_id: int) -> bytes:
        """Return the content of a sequence's cells."""
        return self._native.save(seq_id)

    def load(self, seq_id: int, data: bytes) -> None:
        """Give the empty `seq_id` cells with the content that `save` returned."""
        self._native.load(seq_id, data)

    def close(self) -> None:
        """Free it."""
        self._native.close()

    def sample(self, output: int, sampler: Sampler) -> int:
        """Choose the next token from the logits at `output` of the last batch."""
        if not isinstance(sampler, ChainSampler):
            raise TypeError(f"a llama.cpp context samples with a ChainSampler, not {type(sampler).__name__}")
        return self._native.sample(output, sampler.chain)


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
        self._ends = {token for token in range(native.n_vocab) if native.is_end(token)}

    def piece(self, token: int) -> bytes:
        """Return what the token stands for in text."""
        return self._native.piece(token)

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return token in self._ends

    def open_context(self, n_cells: int, n_sequences: int) -> TokenContext:
        """Return a new, empty context; raises MemoryError if there is no memory for it."""
        compute = self._compute
        native = NativeContext(
            self._native,
            ContextParams(
                n_ctx=n_cells,
                n_sequences=n_sequences,
                n_batch=compute.n_batch,
                n_outputs=min(compute.n_outputs, n_sequences),
                threads=compute.threads,
                kv_type=compute.kv_type,
                flash_attention=compute.flash_attention,
            ),
        )
        return LlamaContext(native, n_cells)

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

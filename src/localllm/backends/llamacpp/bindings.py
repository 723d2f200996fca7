"""llama-cpp-python's low-level bindings behind two typed classes: all that is done with a model goes through them.

`NativeModel` is the weights with their vocabulary, `NativeContext` a KV cache over them. Functions and their rules are
those of llama.cpp's `include/llama.h`. Every object is freed by `close`, once, and not used afterwards; nothing here
checks that, `adapter.py` does.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal

from attrs import frozen

from localllm.backends.llamacpp.library import library
from localllm.backends.llamacpp.loading import load_weights
from localllm.backends.llamacpp.repacking import can_repack
from localllm.backends.llamacpp.rope import Rope
from localllm.engine.model import DecodeError, NoRoomError, Work

_log = logging.getLogger("localllm.llama")

KvType = Literal["f16", "q8_0", "f32"]
_KV_TYPES: dict[KvType, int] = {"f32": 0, "f16": 1, "q8_0": 8}  # ggml_type
_ATTR_UNKNOWN, _ATTR_CONTROL, _ATTR_USER_DEFINED = 1, 8, 16  # llama_token_attr
_FLASH_ATTENTION = {False: 0, True: 1}  # llama_flash_attn_type


@frozen(kw_only=True)
class ContextParams:
    """How a context is made.

    Args:
        n_ctx: Cells of its KV cache.
        n_sequences: Its sequence ids.
        n_batch: Tokens of a batch at most.
        n_outputs: Tokens of a batch at most whose logits are wanted.
        threads: Threads that compute.
        kv_type: Precision of its KV cache.
        flash_attention: Whether attention is computed in one fused step.
        rope: How positions are encoded.
    """

    n_ctx: int
    n_sequences: int
    n_batch: int
    n_outputs: int
    threads: int
    kv_type: KvType
    flash_attention: bool
    rope: Rope = Rope()


class NativeModel:
    """A model's weights and vocabulary in native memory.

    Args:
        path: The (first) file, already checked by `localllm.models`.
        gpu_layers: Layers to offload; -1 for all.
        mmap: Map the weights from the file.
        repack: Lay the weights out anew for the processor, where llama.cpp has code for that and it works.
        vocab_only: Load the vocabulary and no weights.
        on_progress: Told the fraction loaded; returning False cancels.

    Raises:
        LoadCancelledError: `on_progress` returned False.
        ModelLoadError: llama.cpp refuses the file; its log says why.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        mmap: bool = True,
        repack: bool = True,
        vocab_only: bool = False,
        on_progress: Callable[[float], bool] | None = None,
    ) -> None:
        lib = self._lib = library()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = 1 if mmap else 0  # LLAMA_LOAD_MODE_MMAP, _NONE
        params.vocab_only = vocab_only
        self.repacks: bool = repack and not vocab_only and can_repack()
        params.use_extra_bufts = self.repacks
        self.handle: ctypes.c_void_p | None = load_weights(path, params, on_progress)
        self.vocab: ctypes.c_void_p = lib.llama_model_get_vocab(self.handle)
        self.n_vocab: int = lib.llama_vocab_n_tokens(self.vocab)
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self.handle:
            self._lib.llama_model_free(self.handle)
            self.handle = None

    @property
    def n_ctx_train(self) -> int:
        """Tokens of the context window it was trained with."""
        return int(self._lib.llama_model_n_ctx_train(self.handle))

    @property
    def n_layers(self) -> int:
        """Its layers."""
        return int(self._lib.llama_model_n_layer(self.handle))

    @property
    def n_swa(self) -> int:
        """Tokens of its sliding window; 0 if it has none."""
        return int(self._lib.llama_model_n_swa(self.handle))

    @property
    def can_cut(self) -> bool:
        """Whether its sequences can be cut: not so where a state is carried from token to token."""
        lib = self._lib
        return not (lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle))

    @property
    def has_decoder(self) -> bool:
        """Whether it generates text from text alone."""
        lib = self._lib
        return bool(lib.llama_model_has_decoder(self.handle)) and not lib.llama_model_has_encoder(self.handle)

    @property
    def bos(self) -> int | None:
        """The token that begins a sequence."""
        return self._known(self._lib.llama_vocab_bos(self.vocab))

    @property
    def eos(self) -> int | None:
        """The token that ends a sequence."""
        return self._known(self._lib.llama_vocab_eos(self.vocab))

    @property
    def adds_bos(self) -> bool:
        """Whether a prompt is to begin with `bos`."""
        return bool(self._lib.llama_vocab_get_add_bos(self.vocab))

    def is_end(self, token: int) -> bool:
        """Whether the token ends a turn."""
        return bool(self._lib.llama_vocab_is_eog(self.vocab, token))

    def is_control(self, token: int) -> bool:
        """Whether the token is a control or unknown one, or ends a turn."""
        attr = self._lib.llama_vocab_get_attr(self.vocab, token)
        return bool(attr & (_ATTR_UNKNOWN | _ATTR_CONTROL)) or self.is_end(token)

    def is_user_defined(self, token: int) -> bool:
        """Whether the token was added to the vocabulary by the model's makers."""
        return bool(self._lib.llama_vocab_get_attr(self.vocab, token) & _ATTR_USER_DEFINED)

    def token_text(self, token: int) -> str:
        """Return how the vocabulary spells the token."""
        text: bytes | None = self._lib.llama_vocab_get_text(self.vocab, token)
        return (text or b"").decode("utf-8", "replace")

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of `text`, none added. Safe from any thread."""
        data = text.encode()
        size = len(data) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._lib.llama_tokenize(self.vocab, data, len(data), tokens, size, False, parse_special)
        if count < 0:
            tokens = (ctypes.c_int32 * -count)()
            count = self._lib.llama_tokenize(self.vocab, data, len(data), tokens, -count, False, parse_special)
        return tokens[:count]

    def piece(self, token: int) -> bytes:
        """Return the token's text as UTF-8 bytes; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._piece(token, special=False)
        return piece

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """Return the text of `tokens`, control tokens spelled out."""
        return b"".join(self._piece(token, special=True) for token in tokens)

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _known(self, token: int) -> int | None:
        return token if 0 <= token < self.n_vocab else None


class _Rows:
    """A batch for llama.cpp, over arrays that are filled a column at a time: one call each, not one a token.

    Args:
        lib: The library.
        size: Tokens that it may hold.
    """

    def __init__(self, lib: ModuleType, size: int) -> None:
        self._tokens = (ctypes.c_int32 * size)()
        self._positions = (ctypes.c_int32 * size)()
        self._seq_ids = (ctypes.c_int32 * size)()
        self._outputs = (ctypes.c_int8 * size)()
        self._counts = (ctypes.c_int32 * size)(*[1] * size)  # each token is in one sequence
        pointer = ctypes.POINTER(ctypes.c_int32)
        start, width = ctypes.addressof(self._seq_ids), ctypes.sizeof(ctypes.c_int32)
        self._pointers = (pointer * size)(*(ctypes.cast(start + width * row, pointer) for row in range(size)))
        self._batch = lib.llama_batch(
            n_tokens=0,
            token=self._tokens,
            embd=None,
            pos=self._positions,
            n_seq_id=self._counts,
            seq_id=self._pointers,
            logits=self._outputs,
        )

    def fill(self, works: Sequence[Work]) -> tuple[list[int], ctypes.Structure]:
        """Return where each work's logits will be, or -1, and the batch."""
        tokens: list[int] = []
        positions: list[int] = []
        seq_ids: list[int] = []
        rows = []
        for work in works:
            size = len(work.tokens)
            tokens += work.tokens
            positions += range(work.start, work.start + size)
            seq_ids += (work.seq_id,) * size
            rows.append(len(tokens) - 1 if work.sample else -1)
        count = len(tokens)
        outputs = [0] * count
        for row in rows:
            if row >= 0:
                outputs[row] = 1
        self._tokens[:count] = [*tokens]
        self._positions[:count] = [*positions]
        self._seq_ids[:count] = [*seq_ids]
        self._outputs[:count] = [*outputs]
        self._batch.n_tokens = count
        return rows, self._batch


class NativeContext:
    """A KV cache over a model and the computation over it. One thread uses it.

    Args:
        model: The weights; they outlive it.
        params: How it is made.

    Raises:
        MemoryError: llama.cpp cannot allocate it.
    """

    def __init__(self, model: NativeModel, params: ContextParams) -> None:
        lib = self._lib = library()
        native = lib.llama_context_default_params()
        native.n_ctx = params.n_ctx
        native.n_batch = params.n_batch
        native.n_ubatch = params.n_batch
        native.n_seq_max = params.n_sequences
        native.n_outputs_max = max(params.n_outputs, params.n_sequences)  # else an assert of llama.cpp ends the process
        native.n_threads = native.n_threads_batch = params.threads
        native.type_k = native.type_v = _KV_TYPES[params.kv_type]
        native.flash_attn_type = _FLASH_ATTENTION[params.flash_attention]
        params.rope.set_in(native)
        native.kv_unified = True
        native.swa_full = True
        native.no_perf = True
        self._handle = lib.llama_init_from_model(model.handle, native)
        if not self._handle:
            raise MemoryError(
                f"llama.cpp cannot make a context of {params.n_ctx} tokens; see the log 'localllm.llama', "
                "or ask for a smaller ModelConfig(n_ctx=...)"
            )
        self._memory = lib.llama_get_memory(self._handle)
        self.n_cells: int = lib.llama_n_ctx(self._handle)
        self.n_sequences: int = params.n_sequences
        self.n_vocab: int = model.n_vocab
        self.can_copy_parts: bool = model.can_cut
        self._n_batch = params.n_batch
        self._rows = _Rows(lib, params.n_batch)

    def decode(self, works: Sequence[Work]) -> list[int]:
        """Compute a batch; see `TokenContext.decode`."""
        outputs, batch = self._rows.fill(works)
        row = batch.n_tokens
        status = self._lib.llama_decode(self._handle, batch)
        if status == 1:
            raise NoRoomError(f"the KV cache has no room for {row} tokens")
        if status != 0:
            raise DecodeError(f"llama_decode returned {status}; see the log 'localllm.llama'")
        return outputs

    def sample(self, output: int, chain: ctypes.c_void_p) -> int:
        """Choose the next token from the logits at `output`, and let the sampler chain remember it."""
        return int(self._lib.llama_sampler_sample(chain, self._handle, output))

    def logits_address(self, output: int) -> int:
        """Return where the logits at `output` are, one for each token; they stay there until the next batch."""
        return ctypes.addressof(self._lib.llama_get_logits_ith(self._handle, output).contents)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Let `target` share the positions from `start` to `stop` of `source`."""
        self._lib.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def cut(self, seq_id: int, length: int) -> None:
        """Remove what `seq_id` holds from `length` on."""
        if not self._lib.llama_memory_seq_rm(self._memory, seq_id, length, -1):
            raise DecodeError(f"llama.cpp cannot cut sequence {seq_id} at {length}")

    def save(self, seq_id: int) -> bytes:
        """Return the content of a sequence's cells.

        Raises:
            DecodeError: llama.cpp fails to copy them.
        """
        size = self._lib.llama_state_seq_get_size(self._handle, seq_id)
        # CPython gives its address, and nobody sees it yet: a buffer to copy from would be as much new memory again.
        data = bytes(size)
        written = self._lib.llama_state_seq_get_data(self._handle, _address(data), size, seq_id)
        if written != size:
            raise DecodeError(f"llama.cpp copied {written} bytes of the {size} of sequence {seq_id}")
        return data

    def load(self, seq_id: int, data: bytes) -> None:
        """Give the empty `seq_id` cells with the content that `save` returned."""
        if not self._lib.llama_state_seq_set_data(self._handle, _address(data), len(data), seq_id):
            raise DecodeError(f"llama.cpp cannot load {len(data)} bytes into sequence {seq_id}")

    def close(self) -> None:
        """Free it; a second call does nothing."""
        if self._handle:
            self._lib.llama_free(self._handle)
            self._handle = None


def _address(data: bytes) -> ctypes._Pointer[ctypes.c_uint8]:
    return ctypes.cast(ctypes.c_char_p(data), ctypes.POINTER(ctypes.c_uint8))

"""A bare llama.cpp context, made as the engine's are: to see what its memory does, with nothing of ours around it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from localllm.backends.llamacpp.bindings import NativeModel

Logits: TypeAlias = NDArray[np.float32]

N_CTX = 512
N_SEQUENCES = 6
N_BATCH = 128
_CURRENT_ONLY = 1  # LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class Memory:
    """A context's sequences.

    Args:
        model: The weights.
    """

    def __init__(self, model: NativeModel) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = N_CTX, N_SEQUENCES
        params.n_batch = params.n_ubatch = N_BATCH
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = 0  # GGML_TYPE_F32
        params.flash_attn_type = 0
        params.kv_unified = params.swa_full = True
        self._n_vocab = model.n_vocab
        self._context = lib.llama_init_from_model(model.handle, params)
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(N_BATCH, 0, 1)

    def close(self) -> None:
        """Free it."""
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._context)

    def decode(self, works: Sequence[tuple[int, int, Sequence[int]]]) -> list[Logits] | None:
        """Compute tokens of several sequences in one batch: (sequence, position of the first, tokens).

        Returns:
            The logits after the last token of each, or None if llama.cpp refuses the batch.
        """
        batch, row = self._batch, 0
        ends = []
        for seq_id, start, tokens in works:
            for offset, token in enumerate(tokens):
                batch.token[row], batch.pos[row] = token, start + offset
                batch.n_seq_id[row], batch.seq_id[row][0] = 1, seq_id
                batch.logits[row] = offset == len(tokens) - 1
                row += 1
            ends.append(row - 1)
        batch.n_tokens = row
        if lib.llama_decode(self._context, batch) != 0:
            return None
        return [self._logits(end) for end in ends]

    def read(self, seq_id: int, start: int, tokens: Sequence[int], portion: int = N_BATCH) -> Logits:
        """Compute tokens of one sequence, so many at a time; return the logits after the last."""
        last = None
        for done in range(0, len(tokens), portion):
            last = self.decode([(seq_id, start + done, tokens[done : done + portion])])
        if last is None:
            raise ValueError("llama.cpp refused the batch")
        return last[0]

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Let `target` share what `source` holds from position `start` to `stop`."""
        lib.llama_memory_seq_cp(self._memory, source, target, start, stop)

    def cut(self, seq_id: int, length: int) -> bool:
        """Remove what a sequence holds from `length` on; False if that can't be."""
        return bool(lib.llama_memory_seq_rm(self._memory, seq_id, length, -1))

    def span(self, seq_id: int) -> tuple[int, int]:
        """Return the first and the last position that a sequence holds; -1 if none."""
        return (
            lib.llama_memory_seq_pos_min(self._memory, seq_id),
            lib.llama_memory_seq_pos_max(self._memory, seq_id),
        )

    def save(self, seq_id: int, *, current_only: bool = False) -> bytes:
        """Return a sequence's content, or only what changes with each token: states, and keys within a window."""
        flags = _CURRENT_ONLY if current_only else 0
        size = lib.llama_state_seq_get_size_ext(self._context, seq_id, flags)
        buffer = (ctypes.c_uint8 * size)()
        assert lib.llama_state_seq_get_data_ext(self._context, buffer, size, seq_id, flags) == size
        return bytes(buffer)

    def load(self, seq_id: int, data: bytes, *, current_only: bool = False) -> None:
        """Put back what `save` returned, in place of what the sequence holds."""
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        flags = _CURRENT_ONLY if current_only else 0
        assert lib.llama_state_seq_set_data_ext(self._context, buffer, len(data), seq_id, flags) == len(data)

    def _logits(self, row: int) -> Logits:
        pointer = lib.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self._n_vocab,)).copy()


@contextmanager
def open_memories(path: Path, count: int = 1) -> Iterator[list[Memory]]:
    """Open the model at `path` and so many contexts of it."""
    model = NativeModel(path)
    memories = [Memory(model) for _ in range(count)]
    try:
        yield memories
    finally:
        for memory in memories:
            memory.close()
        model.close()

"""A loop of `llama_decode` and a greedy sampler over llama-cpp-python's bindings: what the hardware gives."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from attrs import define, field, frozen

from bench.systems.base import Answer, OnPiece, Schema, Setup, System, Turn, go_on
from bench.systems.native import about_bindings, can_repack

N_BATCH = 512


@frozen
class _Row:
    """A token of a batch: where it stands, whose it is, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int
    wanted: bool


@define(eq=False)
class _Stream:
    """One conversation while it is answered."""

    sequence: int
    start_s: float
    prompt: list[int]
    times_s: list[float] = field(factory=list)
    token: int = -1
    end_s: float = 0.0

    def rows(self) -> list[_Row]:
        """Return what is to be read next: the prompt, or the token that was sampled last."""
        if not self.times_s:
            last = len(self.prompt) - 1
            return [_Row(token, index, self.sequence, index == last) for index, token in enumerate(self.prompt)]
        return [_Row(self.token, len(self.prompt) + len(self.times_s) - 1, self.sequence, True)]


class BareLoop(System):
    """No cache, no scheduler, no threads: prompts in batches of 512, then one token of each conversation a batch."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import llama_cpp.llama_cpp as native

        self._native = native
        self._lock = threading.Lock()

    @cached_property
    def _model(self) -> Any:
        native = self._native
        params = native.llama_model_default_params()
        params.use_extra_bufts = self.setup.repack and can_repack()
        return native.llama_model_load_from_file(str(self.setup.path).encode(), params)

    @cached_property
    def _context(self) -> Any:
        native = self._native
        params = native.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = self.setup.n_ctx, self.setup.n_parallel, True
        params.n_threads = params.n_threads_batch = self.setup.threads
        params.flash_attn_type = 0  # as `llama_cpp.Llama` has it, and localllm without a GPU
        params.no_perf = True
        self._vocab = native.llama_model_get_vocab(self._model)
        self._sampler = native.llama_sampler_init_greedy()
        self._batch = native.llama_batch_init(N_BATCH, 0, 1)
        for index in range(N_BATCH):
            self._batch.n_seq_id[index] = 1
        return native.llama_init_from_model(self._model, params)

    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer from an empty cache."""
        return self._run([turns], max_tokens, on_piece, endless)[0]

    def answer_all(
        self, conversations: Sequence[Sequence[Turn]], max_tokens: int, schemas: Sequence[Schema] = ()
    ) -> list[Answer]:
        """Answer several conversations in one batch, from an empty cache."""
        return self._run(conversations, max_tokens, go_on, endless=False)

    def _run(
        self, conversations: Sequence[Sequence[Turn]], max_tokens: int, on_piece: OnPiece, endless: bool
    ) -> list[Answer]:
        with self._lock:
            native, context = self._native, self._context
            start_s = time.perf_counter()
            native.llama_memory_clear(native.llama_get_memory(context), False)
            streams = [_Stream(index, start_s, self._tokens(turns)) for index, turns in enumerate(conversations)]
            running = streams
            while running:
                rows = [row for stream in running for row in stream.rows()]
                for start in range(0, len(rows), N_BATCH):
                    part = rows[start : start + N_BATCH]
                    self._decode(part)
                    for index, row in enumerate(part):
                        if row.wanted:
                            self._sample(streams[row.sequence], index, max_tokens, on_piece, endless)
                running = [stream for stream in running if not stream.end_s]
        return [_answer(stream) for stream in streams]

    def _decode(self, rows: Iterable[_Row]) -> None:
        batch = self._batch
        batch.n_tokens = 0
        for index, row in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = row.token, row.position, row.wanted
            batch.seq_id[index][0] = row.sequence
            batch.n_tokens = index + 1
        if self._native.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _sample(self, stream: _Stream, output: int, max_tokens: int, on_piece: OnPiece, endless: bool) -> None:
        native = self._native
        stream.token = native.llama_sampler_sample(self._sampler, self._context, output)
        if native.llama_vocab_is_eog(self._vocab, stream.token) and not endless:
            stream.end_s = time.perf_counter()
            return
        stream.times_s.append(time.perf_counter())
        if len(stream.times_s) == max_tokens or not on_piece(len(stream.times_s)):
            stream.end_s = stream.times_s[-1]

    def _tokens(self, turns: Sequence[Turn]) -> list[int]:
        text = "".join(f"<|im_start|>{turn.role}\n{turn.text}<|im_end|>\n" for turn in turns)
        prompt = (text + "<|im_start|>assistant\n").encode()
        size = len(prompt) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._native.llama_tokenize(self._vocab, prompt, len(prompt), tokens, size, False, True)
        return tokens[:count]

    def about(self) -> list[str]:
        """Return how llama.cpp was built."""
        return [about_bindings()]

    def close(self) -> None:
        """Free everything."""
        if "_context" in self.__dict__:
            self._native.llama_sampler_free(self._sampler)
            self._native.llama_batch_free(self._batch)
            self._native.llama_free(self._context)
            self._native.llama_model_free(self._model)


def _answer(stream: _Stream) -> Answer:
    return Answer(
        start_s=stream.start_s,
        times_s=tuple(stream.times_s),
        end_s=stream.end_s,
        tokens=len(stream.times_s),
        turn=Turn("assistant", ""),
    )

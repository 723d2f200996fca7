"""`llama_cpp.Llama`, the high-level class of llama-cpp-python."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.systems.base import NEVER_END, Answer, OnPiece, Recorder, Schema, Setup, System, Turn, go_on
from bench.systems.native import about_bindings, can_repack


def make_llama(path: Path, threads: int, n_ctx: int = 4096, *, repack: bool = True, **options: object) -> Any:
    """Return a `llama_cpp.Llama` with the threads of the others, its weights repacked only where that works.

    It has no option for the latter, so that the function which it takes its defaults from is replaced meanwhile.
    """
    import llama_cpp.llama_cpp as native
    from llama_cpp import Llama

    defaults = native.llama_model_default_params

    def adjusted() -> Any:
        params = defaults()
        params.use_extra_bufts = repack and can_repack()
        return params

    native.llama_model_default_params = adjusted
    try:
        return Llama(str(path), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False, **options)
    finally:
        native.llama_model_default_params = defaults


class LlamaCppPython(System):
    """`llama_cpp.Llama` with its defaults, behind a lock: it serves one caller at a time."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._lock = threading.Lock()

    @cached_property
    def _llama(self) -> Any:
        return make_llama(self.setup.path, self.setup.threads, self.setup.n_ctx, repack=self.setup.repack)

    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer through its streaming chat completion; its prefix cache is what its context holds."""
        recorder = Recorder(on_piece)
        with self._lock:
            for part in self._llama.create_chat_completion(
                [{"role": turn.role, "content": turn.text} for turn in turns],
                temperature=0,
                max_tokens=max_tokens,
                stream=True,
                logit_bias=NEVER_END if endless else None,
            ):
                piece = part["choices"][0]["delta"].get("content")
                if piece and not recorder.add(piece):
                    break
        return recorder.answer()

    def answer_json(self, turns: Sequence[Turn], max_tokens: int, schema: Schema) -> Answer:
        """Answer with text that fits a JSON Schema, by the grammar that it makes of one."""
        recorder = Recorder(go_on)
        with self._lock:
            for part in self._llama.create_chat_completion(
                [{"role": turn.role, "content": turn.text} for turn in turns],
                temperature=0,
                max_tokens=max_tokens,
                stream=True,
                response_format={"type": "json_object", "schema": schema},
            ):
                piece = part["choices"][0]["delta"].get("content")
                if piece:
                    recorder.add(piece)
        return recorder.answer()

    def about(self) -> list[str]:
        """Return how llama.cpp was built, and how it is shared."""
        return [about_bindings(), "llama_cpp.Llama is behind a lock: it serves one caller at a time."]

    def close(self) -> None:
        """Free the model."""
        if "_llama" in self.__dict__:
            self._llama.close()

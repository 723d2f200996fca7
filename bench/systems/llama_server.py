"""xllamacpp: llama.cpp's own server within this process, without HTTP between."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from attrs import evolve

from bench.systems.base import Answer, OnPiece, Recorder, Setup, System, Turn, go_on
from bench.systems.native import features_of


class LlamaServer(System):
    """xllamacpp with a slot for each parallel chat over one KV cache that all share, and its defaults otherwise.

    By default the slots would divide the context among them, an eighth for each, which is too little for a chat of 800
    words. Its cache of prompts in host memory is on, as it comes.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import xllamacpp

        self._library = xllamacpp

    @cached_property
    def _server(self) -> Any:
        params = self._library.CommonParams()
        params.model.path = str(self.setup.path)
        params.n_ctx = self.setup.n_ctx
        params.n_parallel = self.setup.n_parallel
        params.kv_unified = True
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self.setup.threads
        params.verbosity = 1  # errors only: its log would cost time
        return self._library.Server(params)

    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer through its chat completions; it serves several threads at once."""
        server = self._server
        recorder = Recorder(on_piece)
        usage: dict[str, Any] = {}
        errors: list[object] = []

        def on_chunk(chunk: Any) -> bool:
            if "error" in chunk:
                errors.append(chunk["error"])
                return True
            usage.update(chunk.get("usage") or {})
            for choice in chunk.get("choices", ()):
                piece = choice["delta"].get("content")
                if piece and not recorder.add(piece):
                    return True
            return False

        server.handle_chat_completions(
            {
                "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": endless,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
            on_chunk,
        )
        if errors:
            raise RuntimeError(f"xllamacpp refused the chat: {errors[0]}")
        return evolve(
            recorder.answer(usage.get("completion_tokens")),
            prompt_tokens=usage.get("prompt_tokens", 0),
            cached_tokens=usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        )

    def about(self) -> list[str]:
        """Return how its llama.cpp was built, and how it is set."""
        features = features_of(self._library.get_system_info())
        return [
            f"xllamacpp {self._library.__version__} brings a llama.cpp of its own, built for {features}; it may repack "
            "weights.",
            "xllamacpp's slots share one KV cache (`kv_unified`); by default each would have its part of the context "
            "only, an eighth.",
        ]

    def close(self) -> None:
        """Stop the server."""
        self.__dict__.pop("_server", None)

"""The systems that are compared, each behind the same two calls: answer a chat, and time a stream."""

from __future__ import annotations

import ctypes
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from localllm import ChatSession, Message, Model, ModelConfig, ModelManager
from localllm.backends.llamacpp.bindings import can_repack

N_CTX = 4096


@frozen
class Streamed:
    """A streamed answer as its consumer saw it.

    Args:
        first_s: Seconds to the first token.
        total_s: Seconds to the end.
        tokens: Tokens generated.
    """

    first_s: float
    total_s: float
    tokens: int

    @property
    def rate(self) -> float:
        """Tokens after the first, by second."""
        return (self.tokens - 1) / (self.total_s - self.first_s)


class System(ABC):
    """A way to run the model."""

    name: str

    @abstractmethod
    def answer(self, messages: list[Message], max_tokens: int) -> tuple[Streamed, str]:
        """Answer a conversation greedily; return the figures and the text."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""


class LocalLLM(System):
    """localllm, in this process."""

    name = "localllm"

    def __init__(self, path: Path, threads: int) -> None:
        self._models = ModelManager(isolation="thread")
        self.model: Model = self._models.load(path, config=ModelConfig(threads=threads, n_ctx=N_CTX))
        self._chat: ChatSession | None = None

    def answer(self, messages: list[Message], max_tokens: int) -> tuple[Streamed, str]:
        """Answer, going on with the session whose history the conversation continues, as an application would."""
        chat = self._chat
        if chat is None or list(chat.history) != messages[:-1]:
            chat = ChatSession(self.model, history=messages[:-1])
        self._chat = chat
        start_s = time.perf_counter()
        first_s = 0.0
        with chat.stream(messages[-1], temperature=0, max_tokens=max_tokens) as stream:
            for _ in stream:
                first_s = first_s or time.perf_counter() - start_s
        total_s = time.perf_counter() - start_s
        reply = stream.reply
        return Streamed(first_s, total_s, reply.usage.completion_tokens), reply.text

    def close(self) -> None:
        """Close the manager."""
        self._models.close()


def make_llama(path: Path, threads: int, n_ctx: int = N_CTX, **options: object) -> Any:
    """Return a `llama_cpp.Llama` with the threads of the others and, where they must, without repacked weights.

    It has no option for the latter, so that the function which it takes its defaults from is replaced meanwhile.
    """
    import llama_cpp.llama_cpp as native
    from llama_cpp import Llama

    defaults = native.llama_model_default_params

    def adjusted() -> Any:
        params = defaults()
        params.use_extra_bufts = can_repack()
        return params

    native.llama_model_default_params = adjusted
    try:
        return Llama(str(path), n_ctx=n_ctx, n_threads=threads, n_threads_batch=threads, verbose=False, **options)
    finally:
        native.llama_model_default_params = defaults


class LlamaCppPython(System):
    """`llama_cpp.Llama`, the high-level class of llama-cpp-python, with its defaults."""

    name = "llama_cpp.Llama"

    def __init__(self, path: Path, threads: int) -> None:
        self._llama = make_llama(path, threads)

    def answer(self, messages: list[Message], max_tokens: int) -> tuple[Streamed, str]:
        """Answer through its streaming chat completion."""
        start_s = time.perf_counter()
        first_s, pieces = 0.0, []
        for part in self._llama.create_chat_completion(
            [{"role": message.role, "content": message.content} for message in messages],
            temperature=0,
            max_tokens=max_tokens,
            stream=True,
        ):
            piece = part["choices"][0]["delta"].get("content")
            if piece:
                first_s = first_s or time.perf_counter() - start_s
                pieces.append(piece)
        return Streamed(first_s, time.perf_counter() - start_s, len(pieces)), "".join(pieces)

    def close(self) -> None:
        """Free the model."""
        self._llama.close()


class BareLoop(System):
    """A loop of `llama_decode` and a greedy sampler over llama-cpp-python's bindings: what the hardware gives."""

    name = "bare loop"

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp.llama_cpp as native

        self._native = native
        model_params = native.llama_model_default_params()
        model_params.use_extra_bufts = can_repack()
        self._model = native.llama_model_load_from_file(str(path).encode(), model_params)
        params = native.llama_context_default_params()
        params.n_ctx, params.n_threads, params.n_threads_batch = N_CTX, threads, threads
        params.flash_attn_type = 0
        self._context = native.llama_init_from_model(self._model, params)
        self._vocab = native.llama_model_get_vocab(self._model)
        self._sampler = native.llama_sampler_init_greedy()

    def answer(self, messages: list[Message], max_tokens: int) -> tuple[Streamed, str]:
        """Answer from an empty cache, in ChatML."""
        text = "".join(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages)
        start_s = time.perf_counter()
        first_s, count = 0.0, 0
        for _ in self._generate((text + "<|im_start|>assistant\n").encode(), max_tokens):
            first_s = first_s or time.perf_counter() - start_s
            count += 1
        return Streamed(first_s, time.perf_counter() - start_s, count), ""

    def _generate(self, prompt: bytes, max_tokens: int) -> Iterator[int]:
        native = self._native
        size = len(prompt) + 8
        tokens = (ctypes.c_int32 * size)()
        count = native.llama_tokenize(self._vocab, prompt, len(prompt), tokens, size, False, True)
        native.llama_memory_clear(native.llama_get_memory(self._context), False)
        for start in range(0, count, 512):
            part = (ctypes.c_int32 * min(512, count - start))(*tokens[start : min(count, start + 512)])
            native.llama_decode(self._context, native.llama_batch_get_one(part, len(part)))
        one = (ctypes.c_int32 * 1)()
        for _ in range(max_tokens):
            token = native.llama_sampler_sample(self._sampler, self._context, -1)
            if native.llama_vocab_is_eog(self._vocab, token):
                return
            yield token
            one[0] = token
            native.llama_decode(self._context, native.llama_batch_get_one(one, 1))

    def close(self) -> None:
        """Free everything."""
        self._native.llama_sampler_free(self._sampler)
        self._native.llama_free(self._context)
        self._native.llama_model_free(self._model)

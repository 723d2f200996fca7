"""localllm, as an application uses it: a session for each conversation, history and all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Literal, cast

from attrs import evolve

from bench.systems.base import NEVER_END, Answer, OnPiece, Recorder, Schema, Setup, System, Turn, go_on
from bench.systems.native import about_bindings
from localllm import ChatSession, Message, Model, ModelConfig, ModelManager, TruncatedOutputError


class LocalLLM(System):
    """localllm with its defaults, by default in a thread, so that its memory and processor time are this process's."""

    def __init__(self, setup: Setup, isolation: Literal["process", "thread"] = "thread") -> None:
        super().__init__(setup)
        self._models = ModelManager(isolation=isolation)

    @cached_property
    def isolated(self) -> LocalLLM:
        """The same in a worker, made when first asked for; closed with this one."""
        return LocalLLM(self.setup, "process")

    @cached_property
    def model(self) -> Model:
        """The model, loaded when first asked for: some scenarios need none."""
        setup = self.setup
        config = ModelConfig(threads=setup.threads, n_ctx=setup.n_ctx, n_parallel=setup.n_parallel, repack=setup.repack)
        return self._models.load(setup.path, config=config)

    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer with a session; its reply comes back as a message that knows its tokens."""
        *history, last = map(_message, turns)
        chat = ChatSession(self.model, history=history)
        recorder = Recorder(on_piece)
        with chat.stream(last, temperature=0, max_tokens=max_tokens, logit_bias=NEVER_END if endless else {}) as stream:
            for chunk in stream:
                if not recorder.add(chunk.text):
                    break
        reply = stream.reply
        return evolve(
            recorder.answer(reply.usage.completion_tokens, reply.message),
            prompt_tokens=reply.usage.prompt_tokens,
            cached_tokens=reply.usage.cached_tokens,
        )

    def answer_json(self, turns: Sequence[Turn], max_tokens: int, schema: Schema) -> Answer:
        """Answer with text that fits a JSON Schema, or the beginning of such a text."""
        *history, last = map(_message, turns)
        chat = ChatSession(self.model, history=history)
        recorder = Recorder(go_on)
        stream = chat.stream(last, schema=schema, temperature=0, max_tokens=max_tokens)
        with suppress(TruncatedOutputError):
            for chunk in stream:
                recorder.add(chunk.text)
        try:
            tokens = stream.reply.usage.completion_tokens
        except TruncatedOutputError as cut:
            tokens = max_tokens if cut.reply is None else cut.reply.usage.completion_tokens
        return recorder.answer(tokens)

    def about(self) -> list[str]:
        """Return how llama.cpp was built."""
        return [about_bindings()]

    def close(self) -> None:
        """Close the manager, and that of the worker."""
        self._models.close()
        if "isolated" in self.__dict__:
            self.isolated.close()


def _message(turn: Turn) -> Message:
    if isinstance(turn.origin, Message):
        return turn.origin
    return Message(cast("Literal['system', 'user', 'assistant']", turn.role), turn.text)

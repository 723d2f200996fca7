"""The handle of a loaded model: what `ModelManager.load` returns and sessions speak to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from attrs import define, field

from localllm._json import check_text
from localllm.backends.base import GenerateHandle, GenerateRequest, LoadedModel, Sink
from localllm.chat.history import check_messages
from localllm.engine.stats import ModelStats
from localllm.errors import BackendError, ClosedError, InvalidOptionError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.types import Message, RenderedPrompt


@define(eq=False, repr=False)
class Model:
    """A loaded model, made by `ModelManager.load`. Safe to use from any thread; a context manager that closes it.

    Args:
        loaded: The backend's model, which belongs to this handle.
        on_closed: Told once the model is closed.
    """

    _loaded: LoadedModel
    _on_closed: Callable[[Model], None] = field(kw_only=True, default=lambda model: None)
    _closed: bool = field(default=False, init=False)

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as loaded."""
        return self._loaded.info

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text: control tokens are never parsed, none are added.

        Raises:
            ClosedError: The model is closed.
            InvalidPromptError: Lone surrogates; PromptTypeError if it is no str.
        """
        check_text(text, "the text")
        with self._asking("tokenize") as loaded:
            return loaded.tokenize(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out, broken UTF-8 replaced by U+FFFD.

        Raises:
            ClosedError: The model is closed.
            InvalidOptionError: Something that is no token of this model.
        """
        given: object = tokens  # what users pass may be anything
        if not isinstance(given, Sequence) or not all(type(token) is int for token in given):
            raise InvalidOptionError(f"tokens must be a sequence of int; got {given!r:.80}")
        with self._asking("detokenize") as loaded:
            return loaded.detokenize(tokens)

    def render(self, messages: Sequence[Message]) -> RenderedPrompt:
        """Return the exact prompt that the model reads for `messages`, ready for its reply.

        Args:
            messages: A conversation, such as `ChatSession.history`.

        Raises:
            ClosedError: The model is closed.
            InvalidPromptError: There are no messages; PromptTypeError if something is no Message.
            TemplateError: The chat template refuses the messages, or fails.
        """
        checked = check_messages(messages)
        with self._asking("render") as loaded:
            return loaded.render(checked)

    def stats(self) -> ModelStats:
        """Return the figures so far; still answers after `close`."""
        return self._loaded.stats()

    def submit(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Begin one request, below the level of a session; returns at once. See `localllm.Backend` for the rules.

        Args:
            request: What to answer, and how.
            sink: Receives the events, on a thread of the backend; must return at once and never raise.

        Raises:
            ClosedError: The model is closed.
        """
        with self._asking("generate") as loaded:
            return loaded.generate(request, sink)

    def close(self) -> None:
        """End running replies as cancelled and free the model; waits until that is done. May be called twice."""
        self._closed = True
        self._loaded.close()
        self._on_closed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self.info.name!r}{' (closed)' if self._closed else ''}>"

    @contextmanager
    def _asking(self, what: str) -> Iterator[LoadedModel]:
        """Yield the model if it is open; the one place where what a backend raises is made ours."""
        if self._closed:
            raise ClosedError(f"the model {self.info.name!r} is closed; load it again with ModelManager.load")
        try:
            yield self._loaded
        except LocalLLMError:
            raise
        except Exception as exc:
            backend = self.info.backend or type(self._loaded).__name__
            raise BackendError(f"the backend {backend!r} failed in {what}: {type(exc).__name__}: {exc}") from exc

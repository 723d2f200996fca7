"""The handle of a loaded model: what `ModelManager.load` returns and sessions speak to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from attrs import define

from localllm._json import check_text
from localllm.backends.base import GenerateHandle, GenerateRequest, LoadedModel, Sink, rendered
from localllm.batch import Batch, BatchCallback, BatchItems, BatchResult
from localllm.batch_results import BatchResults, batch_of
from localllm.chat.history import check_messages
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import BackendError, InvalidOptionError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.options import GenerationOptions
from localllm.pump import ThreadPump
from localllm.residency.lease import Lease
from localllm.saved.state import StateUse
from localllm.tools.tool import Toolbox, Tools
from localllm.types import Message


@define(eq=False, repr=False)
class Model:
    """A handle of a loaded model, made by `ModelManager.load`. Safe to use from any thread; a context manager that
    closes it.

    The model stays loaded while anybody has an open handle of it; a handle that is dropped is closed soon after. With
    `keep_alive_s`, `memory_budget_bytes` and `ModelManager.unload` the model may leave the memory meanwhile: the handle
    stays valid, and the next use brings the model back.

    Args:
        lease: This handle's share in the model.
    """

    _lease: Lease

    def __attrs_post_init__(self) -> None:
        weakref.finalize(self, self._lease.drop).atexit = False

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as last loaded."""
        return self._lease.info

    @property
    def pinned(self) -> bool:
        """Whether this handle keeps the model in memory while it has nothing to do."""
        return self._lease.pinned

    def pin(self) -> None:
        """Keep the model in memory until `unpin`, or until this handle is closed.

        Neither `keep_alive_s` nor another model that needs room unloads it then; `ModelManager.unload` does. A model
        that is not in memory comes back at its next use.

        Raises:
            ClosedError: The model is closed.
        """
        self._lease.check_open()
        self._lease.pin(True)

    def unpin(self) -> None:
        """Let the model leave the memory again, unless another handle has pinned it."""
        if not self._lease.closed:
            self._lease.pin(False)

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

    def render(self, messages: Sequence[Message], *, tools: Tools = ()) -> RenderedPrompt:
        """Return the exact prompt that the model reads for `messages`, ready for its reply.

        Args:
            messages: A conversation, such as `ChatSession.history`.
            tools: What the model may call, as for a `ChatSession`; none of them is called. The prompt is that of the
                options' defaults: `tool_choice` and `thoughts` may change it.

        Raises:
            ClosedError: The model is closed.
            InvalidPromptError: There are no messages; PromptTypeError if something is no Message.
            InvalidOptionError: A tool that cannot be used, or any with `chat_template="none"`.
            TemplateError: The chat template refuses the messages, or fails.
        """
        checked = check_messages(messages)
        definitions = Toolbox.of(tools, awaits=True).definitions
        with self._asking("render") as loaded:
            return rendered(loaded, checked, definitions)

    def stats(self) -> ModelStats:
        """Return the figures so far, of all the times that the model was in memory; still answers after `close`."""
        return self._lease.stats()

    def generate_many(
        self,
        items: BatchItems,
        *,
        ordered: bool = False,
        on_progress: BatchCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Iterator[BatchResult]:
        """Answer many prompts, each on its own, as many at once as the model can, and yield results as they come.

        The input is pulled as prompts get their turn, in the caller's thread, so that it may be as long as one likes.
        A prompt that cannot be used, or whose reply fails, is one result with an error. Other work of the model goes
        on beside it; where that fills the model's queue, prompts wait for room. Leaving the loop, dropping the
        iterator (its `close` does the same) and any exception cancel what is under way.

        Args:
            items: Prompts, or `BatchItem`s, whose keys tell which results a job has already.
            ordered: Yield in the input's order; a long reply then holds back some that are done.
            on_progress: Told how far it is, before each result; what it raises ends the batch.
            options: Of every reply; see `RequestOptions`. With `timeout_s`, which counts for each reply, no prompt
                waits in the model's queue behind others of this batch.

        Returns:
            An iterator of one result for each prompt, for one thread at a time. It raises what the input raises,
            KeyboardInterrupt, and ClosedError if the model is closed before the input is used up.

        Raises:
            PromptTypeError: The items are one prompt, or no iterable.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
            ClosedError: The model is closed.
        """
        pump = ThreadPump()
        batch = self._batch(items, pump.wake, ordered=ordered, on_progress=on_progress, options=options)
        return BatchResults(items, batch, pump)

    def submit(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Begin one request, below the level of a session; returns at once. See `localllm.Backend` for the rules.

        If the model is not in memory, the request waits until it is back: its `timeout_s` counts from here, and a load
        that fails ends it with the load's error.

        Args:
            request: What to answer, and how.
            sink: Receives the events, on a thread of the backend; must return at once and never raise.

        Raises:
            ClosedError: The model is closed.
        """
        with self._translated("generate"):
            return self._lease.generate(request, sink)

    def save_state(self, request: GenerateRequest, path: Path, offset: int) -> StateUse:
        """Write what is cached of a prompt into a file; see `LoadedModel.save_state`. `ChatSession.save` is for users.

        Raises:
            ClosedError: The model is closed.
            SessionFileError: The file cannot be written.
        """
        with self._asking("save_state") as loaded:
            return loaded.save_state(request, path, offset)

    def load_state(self, path: Path) -> StateUse:
        """Take a state from a saved session; see `LoadedModel.load_state`. `ChatSession.restore` is for users.

        Raises:
            ClosedError: The model is closed.
            SessionFileError: The file cannot be read.
        """
        with self._asking("load_state") as loaded:
            return loaded.load_state(path)

    def close(self) -> None:
        """End this handle's replies as cancelled; with the last handle the model is freed, and that is waited for.

        May be called twice.
        """
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Model {self.info.name!r}{' (closed)' if self._closed else ''}>"

    @property
    def _closed(self) -> bool:
        return self._lease.closed or self._lease.resident.closed

    @contextmanager
    def _asking(self, what: str) -> Iterator[LoadedModel]:
        """Yield the backend's model if this handle is open; waits until it is in memory, and keeps it there."""
        with self._lease.held() as loaded, self._translated(what):
            yield loaded

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """The one place where what a backend raises is made ours."""
        try:
            yield
        except LocalLLMError:
            raise
        except Exception as exc:
            backend = self.info.backend or self.info.name
            raise BackendError(f"the backend {backend!r} failed in {what}: {type(exc).__name__}: {exc}") from exc

    def _batch(
        self,
        items: object,
        wake: Callable[[], None],
        *,
        ordered: bool,
        on_progress: BatchCallback | None,
        options: Mapping[str, object],
    ) -> Batch:
        """Return the batch behind `generate_many`, the async twin's too."""
        self._lease.check_open()
        return batch_of(items, self.submit, self.info, wake, ordered=ordered, on_progress=on_progress, options=options)

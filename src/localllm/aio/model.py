"""The async twin of `localllm.model`: the same handle, asked on a thread."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, Unpack

from attrs import define

from localllm.aio.batch import AsyncBatchItems, AsyncBatchResults
from localllm.aio.pump import LoopPump
from localllm.batch import BatchCallback, BatchResult
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.model import Model
from localllm.models.info import ModelInfo
from localllm.options import GenerationOptions
from localllm.tools.tool import Tools
from localllm.types import Message


@define(eq=False, repr=False)
class AsyncModel:
    """A handle of a loaded model, made by `AsyncModelManager.load`; an async context manager that closes it.

    Args:
        sync: The same model for code that does not await. Closing one closes both.
    """

    _sync: Model

    @property
    def sync(self) -> Model:
        """The same model for code that does not await, such as a `ChatSession` on a thread."""
        return self._sync

    @property
    def info(self) -> ModelInfo:
        """The model's facts, as loaded."""
        return self._sync.info

    @property
    def pinned(self) -> bool:
        """Whether this handle keeps the model in memory while it has nothing to do."""
        return self._sync.pinned

    async def pin(self) -> None:
        """Keep the model in memory until `unpin`, or until this handle is closed. See `Model.pin`."""
        await to_thread(self._sync.pin)

    async def unpin(self) -> None:
        """Let the model leave the memory again, unless another handle has pinned it."""
        await to_thread(self._sync.unpin)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text. See `Model.tokenize`."""
        return await to_thread(self._sync.tokenize, text)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`. See `Model.detokenize`."""
        return await to_thread(self._sync.detokenize, tokens)

    async def render(self, messages: Sequence[Message], *, tools: Tools = ()) -> RenderedPrompt:
        """Return the exact prompt that the model reads for `messages`, and for tools. See `Model.render`."""
        return await to_thread(self._sync.render, messages, tools=tools)

    async def stats(self) -> ModelStats:
        """Return the figures so far, of all the times that it was in memory; still answers after `close`."""
        return await to_thread(self._sync.stats)

    def generate_many(
        self,
        items: AsyncBatchItems,
        *,
        ordered: bool = False,
        on_progress: BatchCallback | None = None,
        **options: Unpack[GenerationOptions],
    ) -> AsyncIterator[BatchResult]:
        """Answer many prompts, each on its own, and yield results as they come; see `Model.generate_many`.

        Leaving the loop, dropping the iterator (its `aclose` does the same) and cancelling the task cancel what is
        under way.

        Args:
            items: Prompts, or `BatchItem`s; an async iterable, too. A plain one that is neither list nor tuple may
                block, so it is asked on a thread, for one item at a time.
            ordered: Yield in the input's order; a long reply then holds back some that are done.
            on_progress: Told in the event loop how far it is, before each result; what it raises ends the batch.
            options: Of every reply; see `RequestOptions`. With `timeout_s`, which counts for each reply, no prompt
                waits in the model's queue behind others of this batch.

        Returns:
            An async iterator of one result for each prompt.

        Raises:
            PromptTypeError: The items are one prompt, or no iterable.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
            ClosedError: The model is closed.
        """
        pump = LoopPump()
        batch = self._sync._batch(items, pump.wake, ordered=ordered, on_progress=on_progress, options=options)
        return AsyncBatchResults(items, batch, pump)

    async def close(self) -> None:
        """End this handle's replies as cancelled; with the last handle the model is freed. May be called twice."""
        await to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self._sync)[1:]}"

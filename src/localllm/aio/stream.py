"""What `AsyncChatSession.stream` returns: the async twin of `localllm.stream`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from localllm.aio.pump import LoopPump
from localllm.pump import Pending
from localllm.turn import Turn
from localllm.types import Reply, StreamChunk, StreamEvent

T = TypeVar("T")


class AsyncChatStream:
    """A reply as it is made: iterate over its chunks with `async for`, or over its `events()`.

    Leaving the loop or the `async with` early, dropping the last reference and cancelling the task all cancel the
    reply: what was delivered until then stays in the session's history, and the session is free at once.
    """

    def __init__(self, turn: Turn, pump: LoopPump) -> None:
        self._turn = turn
        self._pump = pump

    def __aiter__(self) -> AsyncIterator[StreamChunk]:
        """Iterate over the chunks. The iterator is an object of its own: dropping it cancels the reply.

        Raises:
            StreamConsumedError: `events()` was asked for before.
        """
        self._turn.claim("chunks")
        return _Steps(self, self._turn.next_chunk)

    async def __anext__(self) -> StreamChunk:
        """Wait for the next chunk.

        Raises:
            StopAsyncIteration: The reply has ended.
            GenerationTimeoutError: The time ran out; `.reply` of the exception is the partial reply.
            LocalLLMError: The reply failed; so is its `.reply`.
        """
        self._turn.claim("chunks")
        return await self._next(self._turn.next_chunk)

    def events(self) -> AsyncIterator[StreamEvent]:
        """Iterate over everything that happens: PromptProgress, StreamChunk, and at last ReplyEnded.

        Raises:
            StreamConsumedError: The chunks were asked for before.
        """
        self._turn.claim("events")
        return _Steps(self, self._turn.next_event)

    async def reply(self) -> Reply:
        """Wait for the rest of the reply, and return all of it.

        Of a cancelled or timed-out reply it is the part that was delivered, its figures those of the backend.

        Raises:
            LocalLLMError: The reply failed; the exception's `.reply` is what there was of it.
        """
        return await self._run(self._turn.collect_ended, collecting=True)

    async def cancel(self) -> None:
        """End the reply now: what was delivered stays, the rest is discarded. Does nothing once it has ended."""
        self._turn.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.cancel()

    def __del__(self) -> None:
        self._turn.drop()

    async def _next(self, step: Callable[[], T | Literal[Pending.PENDING] | None]) -> T:
        made = await self._run(step)
        if made is None:
            raise StopAsyncIteration
        return made

    async def _run(self, step: Callable[[], T | Literal[Pending.PENDING]], *, collecting: bool = False) -> T:
        try:
            return await self._pump.run(step)
        except BaseException:  # the task was cancelled; a failed turn is settled already
            self._turn.cancel(received=collecting)
            raise


class _Steps(Generic[T]):
    """An iterator over a stream. It keeps the stream, and dropping it cancels what has not ended."""

    __slots__ = ("_step", "_stream")

    def __init__(self, stream: AsyncChatStream, step: Callable[[], T | Literal[Pending.PENDING] | None]) -> None:
        self._stream = stream
        self._step = step

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await self._stream._next(self._step)

    def __del__(self) -> None:
        self._stream._turn.drop()

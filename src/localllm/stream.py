"""What `ChatSession.stream` returns: a reply as it is made, chunk by chunk. The logic is the turn's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from localllm.pump import Pending, ThreadPump
from localllm.turn import Turn
from localllm.types import Reply, StreamChunk, StreamEvent

T = TypeVar("T")


class ChatStream:
    """A reply as it is made: iterate over its chunks, or over its `events()`.

    Leaving the loop or the `with` early, dropping the last reference and Ctrl-C all cancel the reply: what was
    delivered until then stays in the session's history, and the session is free at once. Another thread may `cancel`.
    """

    def __init__(self, turn: Turn, pump: ThreadPump) -> None:
        self._turn = turn
        self._pump = pump

    def __iter__(self) -> Iterator[StreamChunk]:
        """Iterate over the chunks. The iterator is an object of its own: dropping it cancels the reply.

        Raises:
            StreamConsumedError: `events()` was asked for before.
        """
        self._turn.claim("chunks")
        return _Steps(self, self._turn.next_chunk)

    def __next__(self) -> StreamChunk:
        """Wait for the next chunk.

        Raises:
            StopIteration: The reply has ended.
            GenerationTimeoutError: The time ran out; `.reply` of the exception is the partial reply.
            LocalLLMError: The reply failed; so is its `.reply`.
        """
        self._turn.claim("chunks")
        return self._next(self._turn.next_chunk)

    def events(self) -> Iterator[StreamEvent]:
        """Iterate over everything that happens: PromptProgress, StreamChunk, and at last ReplyEnded.

        Raises:
            StreamConsumedError: The chunks were asked for before.
        """
        self._turn.claim("events")
        return _Steps(self, self._turn.next_event)

    @property
    def reply(self) -> Reply:
        """The whole reply; waits for the rest of it.

        Of a cancelled or timed-out reply it is the part that was delivered, its figures those of the backend.

        Raises:
            LocalLLMError: The reply failed; the exception's `.reply` is what there was of it.
        """
        return self._run(self._turn.collect_ended, collecting=True)

    def cancel(self) -> None:
        """End the reply now: what was delivered stays, the rest is discarded. Does nothing once it has ended."""
        self._turn.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turn.cancel()

    def __del__(self) -> None:
        self._turn.drop()

    def _next(self, step: Callable[[], T | Literal[Pending.PENDING] | None]) -> T:
        made = self._run(step)
        if made is None:
            raise StopIteration
        return made

    def _run(self, step: Callable[[], T | Literal[Pending.PENDING]], *, collecting: bool = False) -> T:
        try:
            return self._pump.run(step)
        except BaseException:  # Ctrl-C; a failed turn is settled already
            self._turn.cancel(received=collecting)
            raise


class _Steps(Generic[T]):
    """An iterator over a stream. It keeps the stream, and dropping it cancels what has not ended."""

    __slots__ = ("_step", "_stream")

    def __init__(self, stream: ChatStream, step: Callable[[], T | Literal[Pending.PENDING] | None]) -> None:
        self._stream = stream
        self._step = step

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self._stream._next(self._step)

    def __del__(self) -> None:
        self._stream._turn.drop()

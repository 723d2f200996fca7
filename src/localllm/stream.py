"""What `ChatSession.stream` returns: a reply as it is made, chunk by chunk. The logic is the turn's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Generic, Literal, Self, TypeAlias, TypeVar, cast

from localllm._json import JsonValue
from localllm.pump import Pending, ThreadPump
from localllm.turn import Turn
from localllm.types import Reply, StreamChunk, StreamEvent, T_co

T = TypeVar("T")


class ChatStream(Generic[T_co]):
    """A reply as it is made: iterate over its chunks, over its `events()`, or with a schema over its `partials()`.

    Leaving the loop or the `with` early, dropping the last reference and Ctrl-C all cancel the reply: what was
    delivered until then stays in the session's history, and the session is free at once. Another thread may `cancel`.
    """

    def __init__(self, turn: Turn, pump: ThreadPump) -> None:
        self._turn = turn
        self._pump = pump

    def __iter__(self) -> Iterator[StreamChunk]:
        """Iterate over the chunks. The iterator is an object of its own: dropping it cancels the reply.

        Raises:
            StreamConsumedError: `events()` or `partials()` was asked for before.
        """
        self._turn.claim("chunks")
        return _Steps(self, self._turn.next_chunk)

    def __next__(self) -> StreamChunk:
        """Wait for the next chunk.

        Raises:
            StopIteration: The reply has ended.
            GenerationTimeoutError: The time ran out; `.reply` of the exception is the partial reply.
            TruncatedOutputError: A reply with a schema was cut off before it was whole; so is its `.reply`.
            LocalLLMError: The reply failed; so is its `.reply`.
        """
        self._turn.claim("chunks")
        return self._next(self._turn.next_chunk)

    def events(self) -> Iterator[StreamEvent[T_co]]:
        """Iterate over everything that happens, in this order and as often as it does, at last ReplyEnded.

        PromptProgress, StreamChunk, ToolCallStarted, ToolCallDelta, ToolCallEnded, ToolStarted and ToolEnded of the
        calls that are run, MessagesDropped where the context policy left some out.

        Raises:
            StreamConsumedError: The chunks, or `partials()`, were asked for before.
        """
        self._turn.claim("events")
        return _Steps(self, cast("_Step[StreamEvent[T_co]]", self._turn.next_event))

    def partials(self) -> Iterator[JsonValue]:
        """Iterate over what the reply can be read as so far: JSON that grows, and at last is all of it.

        Lists and objects gain items and texts characters; numbers, true, false and null come when they are whole. What
        was there is never taken back. The value of the schema's type is `reply.parsed`, at the end.

        Raises:
            InvalidOptionError: The stream has no schema.
            StreamConsumedError: The chunks, or `events()`, were asked for before.
        """
        self._turn.claim("partials")
        return _Steps(self, cast("_Step[JsonValue]", self._turn.next_partial))

    @property
    def reply(self) -> Reply[T_co]:
        """The whole reply; waits for the rest of it.

        Of a cancelled or timed-out reply it is the part that was delivered, its figures those of the backend; it has
        no value in `parsed` then, whatever the schema.

        Raises:
            TruncatedOutputError: A reply with a schema was cut off before it was whole.
            LocalLLMError: The reply failed; the exception's `.reply` is what there was of it.
        """
        return cast("Reply[T_co]", self._run(partial(self._turn.collect, raise_timeout=False), collecting=True))

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

    def _next(self, step: _Step[T]) -> T:
        made = self._run(step)
        if made is None:
            raise StopIteration
        return made

    def _run(self, step: Callable[[], T | Literal[Pending.PENDING]], *, collecting: bool = False) -> T:
        try:
            return self._pump.run(partial(self._turn.attended, step))
        except BaseException:  # Ctrl-C, or the hook of a tool; a failed turn is settled already
            self._turn.cancel(received=collecting)
            raise


_Step: TypeAlias = Callable[[], T | Literal[Pending.PENDING] | None]


class _Steps(Generic[T]):
    """An iterator over a stream. It keeps the stream, and dropping it cancels what has not ended."""

    __slots__ = ("_step", "_stream")

    def __init__(self, stream: ChatStream[object], step: _Step[T]) -> None:
        self._stream = stream
        self._step = step

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self._stream._next(self._step)

    def __del__(self) -> None:
        self._stream._turn.drop()

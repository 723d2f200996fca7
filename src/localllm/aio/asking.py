"""The async twin of `localllm.asking`, over the same conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, Unpack, overload

from typing_extensions import TypeForm

from localllm._json import JsonValue
from localllm.aio.pump import LoopPump
from localllm.aio.stream import AsyncChatStream
from localllm.conversation import Conversation, Demand, check_count, collected
from localllm.options import GenerationOptions
from localllm.turn import Turn
from localllm.types import Prompt, Reply

T = TypeVar("T")


class AsyncAsking:
    """The part of an `AsyncChatSession` that asks the model. One reply at a time, or alternatives of one."""

    _conversation: Conversation

    @overload
    async def send(self, prompt: Prompt, *, prefix: str = ..., **options: Unpack[GenerationOptions]) -> Reply: ...
    @overload
    async def send(
        self,
        prompt: Prompt,
        *,
        schema: Mapping[str, object],
        prefix: str = ...,
        **options: Unpack[GenerationOptions],
    ) -> Reply[JsonValue]: ...
    @overload
    async def send(
        self, prompt: Prompt, *, schema: TypeForm[T], prefix: str = ..., **options: Unpack[GenerationOptions]
    ) -> Reply[T]: ...
    async def send(
        self, prompt: Prompt, *, schema: object = None, prefix: str = "", **options: Unpack[GenerationOptions]
    ) -> Reply[object]:
        """Ask, wait for the whole reply, and return it.

        Args:
            prompt: A user's text, a message, or several to append to the history; the last one is from the user or
                a tool, and a system message may only be the very first of the conversation.
            schema: What the reply is to be: a type, such as a dataclass, or a JSON Schema. The model is held to it, and
                `reply.parsed` is its value.
            prefix: What the reply begins with: the model goes on from there, and `reply.text` has it.
            options: Over the session's own.

        Returns:
            The reply; with the finish reason "cancelled" if the model was closed meanwhile.

        Raises:
            InvalidPromptError: The prompt cannot be used; PromptTypeError if it is of the wrong type.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name;
                InvalidSchemaError if a schema cannot be enforced.
            SessionBusyError: Another reply of this session has not ended.
            ClosedError: The model is closed.
            GenerationTimeoutError: `timeout_s` passed; the exception's `.reply` is the partial reply.
            TruncatedOutputError: A reply with a schema was cut off before it was whole; `.partial` is what it was.
            OutputValidationError: A whole reply that the schema's type refuses by rules of its own.
            GenerationError: The reply failed; the exception's `.reply` is what there was of it.
            asyncio.CancelledError: The task was cancelled; the history keeps what was received.
        """
        return await _collect(partial(self._conversation.ask, prompt=prompt, demand=Demand(options, schema, prefix)))

    @overload
    def stream(self, prompt: Prompt, *, prefix: str = ..., **options: Unpack[GenerationOptions]) -> AsyncChatStream: ...
    @overload
    def stream(
        self,
        prompt: Prompt,
        *,
        schema: Mapping[str, object],
        prefix: str = ...,
        **options: Unpack[GenerationOptions],
    ) -> AsyncChatStream[JsonValue]: ...
    @overload
    def stream(
        self, prompt: Prompt, *, schema: TypeForm[T], prefix: str = ..., **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[T]: ...
    def stream(
        self, prompt: Prompt, *, schema: object = None, prefix: str = "", **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[object]:
        """Ask, and return the reply as a stream at once; not awaited.

        Args:
            prompt: As for `send`.
            schema: As for `send`; `stream.partials()` yields what the reply is so far.
            prefix: As for `send`; it is no chunk of the stream.
            options: Over the session's own.

        Raises:
            InvalidPromptError: The prompt cannot be used; PromptTypeError if it is of the wrong type.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name;
                InvalidSchemaError if a schema cannot be enforced.
            SessionBusyError: Another reply of this session has not ended.
            ClosedError: The model is closed.
        """
        return _stream(partial(self._conversation.ask, prompt=prompt, demand=Demand(options, schema, prefix)))

    @overload
    async def regenerate(self, **options: Unpack[GenerationOptions]) -> Reply: ...
    @overload
    async def regenerate(
        self, *, schema: Mapping[str, object], **options: Unpack[GenerationOptions]
    ) -> Reply[JsonValue]: ...
    @overload
    async def regenerate(self, *, schema: TypeForm[T], **options: Unpack[GenerationOptions]) -> Reply[T]: ...
    async def regenerate(self, *, schema: object = None, **options: Unpack[GenerationOptions]) -> Reply[object]:
        """Answer the last prompt again, in place of the last reply, its calls and their results; return the new one.

        If the new reply fails, or is cancelled before any text, the old one stays.

        Args:
            schema: As for `send`; that of the old reply is not remembered.
            options: Over the session's own.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `send`.
        """
        return await _collect(partial(self._conversation.ask_again, demand=Demand(options, schema)))

    @overload
    def stream_regenerate(self, **options: Unpack[GenerationOptions]) -> AsyncChatStream: ...
    @overload
    def stream_regenerate(
        self, *, schema: Mapping[str, object], **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[JsonValue]: ...
    @overload
    def stream_regenerate(self, *, schema: TypeForm[T], **options: Unpack[GenerationOptions]) -> AsyncChatStream[T]: ...
    def stream_regenerate(
        self, *, schema: object = None, **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[object]:
        """Answer the last prompt again, like `regenerate`, and return the new reply as a stream; not awaited.

        Args:
            schema: As for `send`.
            options: Over the session's own.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `stream`.
        """
        return _stream(partial(self._conversation.ask_again, demand=Demand(options, schema)))

    @overload
    async def continue_reply(self, **options: Unpack[GenerationOptions]) -> Reply: ...
    @overload
    async def continue_reply(
        self, *, schema: Mapping[str, object], **options: Unpack[GenerationOptions]
    ) -> Reply[JsonValue]: ...
    @overload
    async def continue_reply(self, *, schema: TypeForm[T], **options: Unpack[GenerationOptions]) -> Reply[T]: ...
    async def continue_reply(self, *, schema: object = None, **options: Unpack[GenerationOptions]) -> Reply[object]:
        """Go on with the last reply, which was cut off: by `max_tokens`, a time-out, or a cancel.

        Args:
            schema: The schema of the whole, to be given again: it is not remembered.
            options: Over the session's own.

        Returns:
            The whole reply, old text and new, which takes the place of the old one in the history. Its figures are
            those of the new part.

        Raises:
            InvalidPromptError: The history does not end with a reply that was cut off.
            LocalLLMError: As `send`; the old reply then stays, unless there is new text.
        """
        return await _collect(partial(self._conversation.go_on, demand=Demand(options, schema)))

    @overload
    def stream_continue(self, **options: Unpack[GenerationOptions]) -> AsyncChatStream: ...
    @overload
    def stream_continue(
        self, *, schema: Mapping[str, object], **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[JsonValue]: ...
    @overload
    def stream_continue(self, *, schema: TypeForm[T], **options: Unpack[GenerationOptions]) -> AsyncChatStream[T]: ...
    def stream_continue(
        self, *, schema: object = None, **options: Unpack[GenerationOptions]
    ) -> AsyncChatStream[object]:
        """Go on with the last reply, like `continue_reply`, and return a stream, not awaited; its chunks are the new
        text.

        Args:
            schema: As for `continue_reply`; `stream.partials()` begin with the old text.
            options: Over the session's own.

        Raises:
            InvalidPromptError: The history does not end with a reply that was cut off.
            LocalLLMError: As `stream`.
        """
        return _stream(partial(self._conversation.go_on, demand=Demand(options, schema)))

    @overload
    async def alternatives(self, prompt: Prompt, n: int, **options: Unpack[GenerationOptions]) -> tuple[Reply, ...]: ...
    @overload
    async def alternatives(
        self, prompt: Prompt, n: int, *, schema: Mapping[str, object], **options: Unpack[GenerationOptions]
    ) -> tuple[Reply[JsonValue], ...]: ...
    @overload
    async def alternatives(
        self, prompt: Prompt, n: int, *, schema: TypeForm[T], **options: Unpack[GenerationOptions]
    ) -> tuple[Reply[T], ...]: ...
    async def alternatives(
        self, prompt: Prompt, n: int, *, schema: object = None, **options: Unpack[GenerationOptions]
    ) -> tuple[Reply[object], ...]:
        """Ask once and return several replies, made side by side: the prompt is read once.

        None of them is kept: `choose` keeps one. Calls are returned, not run. With a `seed`, each reply's is one more
        than that of the one before.

        Args:
            prompt: As for `send`.
            n: How many.
            schema: As for `send`, for each of them; one that is cut off is a failure of all.
            options: Over the session's own.

        Raises:
            InvalidOptionError: `n` is not from 1 to 100, and as for `send`.
            LocalLLMError: The first failure of any of them; the others are cancelled.
        """
        pump = LoopPump()
        turns = tuple(Turn(pump.wake) for _ in range(check_count(n)))
        try:
            self._conversation.offer(turns, prompt, Demand(options, schema))
            return await pump.run(partial(collected, turns))
        except BaseException:  # the task was cancelled, or one of them failed
            for turn in turns:
                turn.cancel()
            raise

    async def choose(self, reply: Reply[object]) -> None:
        """Keep one of the last alternatives: the history gains the prompt and this reply.

        Raises:
            InvalidPromptError: It is none of them, or the session has gone on since.
            SessionBusyError: A reply of this session has not ended.
        """
        self._conversation.choose(reply)


async def _collect(start: Callable[[Turn], None]) -> Reply[object]:
    pump = LoopPump()
    turn = Turn(pump.wake)
    try:
        start(turn)
        return await pump.run(turn.collect)
    except BaseException:  # the task was cancelled; a failed turn is settled already
        turn.cancel(received=True)
        raise


def _stream(start: Callable[[Turn], None]) -> AsyncChatStream[T]:
    pump = LoopPump()
    turn = Turn(pump.wake)
    try:
        start(turn)
        return AsyncChatStream(turn, pump)  # from here on its finalizer cancels
    except BaseException:
        turn.cancel()
        raise

"""The async twin of `localllm.session`, over the same conversation."""

from __future__ import annotations

import copy
import os
from asyncio import to_thread
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Self, TypeVar, Unpack, overload

from typing_extensions import TypeForm

from localllm import saving
from localllm._json import JsonValue
from localllm.aio.model import AsyncModel
from localllm.aio.pump import LoopPump
from localllm.aio.stream import AsyncChatStream
from localllm.aio.tools import LoopToolRun
from localllm.chat.overflow import Overflow
from localllm.conversation import Conversation, Demand, check_count, collected
from localllm.errors import InvalidOptionError
from localllm.options import GenerationOptions
from localllm.outcome import plain
from localllm.saved.state import StateUse
from localllm.stages import RunCalls, StageSink
from localllm.tools.approval import AsyncOnToolCall, check_hook
from localllm.tools.run import ToolRun
from localllm.tools.tool import Toolbox, Tools
from localllm.turn import Turn
from localllm.types import Message, Prompt, Reply

T = TypeVar("T")


class AsyncChatSession:
    """A conversation with a model.

    A turn is atomic: the history gains a prompt together with its reply, and with the calls that were run for it and
    their results, or nothing. A cancelled or timed-out reply counts as soon as it has text; one that failed leaves the
    history as it was. Sessions of one model may be used from many tasks at once, each session by one at a time.

    Args:
        model: Answers.
        system: Instructions that stay: the first message of the history.
        history: Messages to go on from, such as another session's `history`.
        tools: What the model may call: functions with types and a docstring, `Tool`s, or `ToolDefinition`s, whose calls
            are returned. Coroutine functions run on the event loop, others on threads, those of one reply side by side.
        on_tool_call: Asked before each call is run, on the event loop; may be a coroutine function. Returns None to
            approve, a ToolCall to run in its place, or a ToolRefusal. What it raises cancels the reply.
        overflow: What to do when the conversation is longer than the context window: "error" raises
            ContextOverflowError; "drop_oldest" leaves the oldest turns out of prompts; "summarize" has the model
            summarize those; a function is given the conversation and returns what the model is to read. The system
            message and the newest turn stay, and so does `history`, which keeps all messages.
        options: Options of every reply, unless a call has its own; see `RequestOptions`.

    Raises:
        InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name. A tool that
            cannot be used: no types, two of one name.
        InvalidPromptError: A history that is no conversation; PromptTypeError if something is no Message.
    """

    def __init__(
        self,
        model: AsyncModel,
        *,
        system: str | None = None,
        history: Iterable[Message] = (),
        tools: Tools = (),
        on_tool_call: AsyncOnToolCall | None = None,
        overflow: Overflow = "error",
        **options: Unpack[GenerationOptions],
    ) -> None:
        if not isinstance(model, AsyncModel):
            raise InvalidOptionError(
                f"model must be an AsyncModel, as AsyncModelManager.load returns it, not {type(model).__name__}; "
                "for a Model use ChatSession"
            )
        box = Toolbox.of(tools, awaits=True)
        check_hook(on_tool_call, awaits=True)

        def run(stage: RunCalls, timeout_s: float | None, sink: StageSink) -> ToolRun:
            return LoopToolRun(stage, box, on_tool_call, timeout_s, sink)

        self._model = model
        self._conversation = Conversation(
            model.sync, system=system, history=history, overflow=overflow, box=box, runner=run, options=options
        )
        self._restored: StateUse | None = None

    @property
    def model(self) -> AsyncModel:
        """The model that answers."""
        return self._model

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages so far, those left out of prompts by now, too; a running reply is not among them."""
        return self._conversation.history

    @property
    def restored(self) -> StateUse | None:
        """For a session from a file: for how many tokens its state is used, and why not for more. None for others."""
        return self._restored

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

    async def regenerate(self, **options: Unpack[GenerationOptions]) -> Reply:
        """Answer the last prompt again, in place of the last reply, its calls and their results; return the new one.

        If the new reply fails, or is cancelled before any text, the old one stays.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `send`.
        """
        return plain(await _collect(partial(self._conversation.ask_again, demand=Demand(options))))

    def stream_regenerate(self, **options: Unpack[GenerationOptions]) -> AsyncChatStream:
        """Answer the last prompt again, like `regenerate`, and return the new reply as a stream; not awaited.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `stream`.
        """
        return _stream(partial(self._conversation.ask_again, demand=Demand(options)))

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
            schema: The schema of the whole, if it was asked for with one.
            options: Over the session's own.

        Returns:
            The whole reply, old text and new, which takes the place of the old one in the history. Its figures are
            those of the new part.

        Raises:
            InvalidPromptError: The history does not end with a reply that was cut off.
            LocalLLMError: As `send`; the old reply then stays, unless there is new text.
        """
        return await _collect(partial(self._conversation.go_on, demand=Demand(options, schema)))

    def stream_continue(self, **options: Unpack[GenerationOptions]) -> AsyncChatStream:
        """Go on with the last reply, like `continue_reply`, and return a stream, not awaited; its chunks are the new
        text.

        Raises:
            InvalidPromptError: The history does not end with a reply that was cut off.
            LocalLLMError: As `stream`.
        """
        return _stream(partial(self._conversation.go_on, demand=Demand(options)))

    async def alternatives(self, prompt: Prompt, n: int, **options: Unpack[GenerationOptions]) -> tuple[Reply, ...]:
        """Ask once and return several replies, made side by side: the prompt is read once.

        None of them is kept: `choose` keeps one. Calls are returned, not run. With a `seed`, each reply's is one more
        than that of the one before.

        Args:
            prompt: As for `send`.
            n: How many.
            options: Over the session's own.

        Raises:
            InvalidOptionError: `n` is not from 1 to 100, and as for `send`.
            LocalLLMError: The first failure of any of them; the others are cancelled.
        """
        pump = LoopPump()
        turns = tuple(Turn(pump.wake) for _ in range(check_count(n)))
        try:
            self._conversation.offer(turns, prompt, Demand(options))
            return tuple(map(plain, await pump.run(partial(collected, turns))))
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

    async def fork(self) -> Self:
        """Return a session that goes on from here on its own; a reply that is running stays with this one."""
        forked = copy.copy(self)
        forked._conversation = self._conversation.fork()
        return forked

    async def undo(self) -> tuple[Message, ...]:
        """Take back the last turn: its prompt, all of a sequence, and its reply, with its calls and their results.

        Returns:
            The messages taken back; none if there is no turn.

        Raises:
            SessionBusyError: A reply of this session has not ended.
        """
        return self._conversation.undo()

    async def reset(self) -> None:
        """Forget everything but the system message.

        Raises:
            SessionBusyError: A reply of this session has not ended.
        """
        self._conversation.reset()

    async def save(self, path: str | os.PathLike[str], *, state: bool = True) -> StateUse:
        """Write the session into a file, whole or not at all: history, options, and what the model has read of it.

        See `ChatSession.save`. The event loop goes on meanwhile.
        """
        return await to_thread(saving.save, self._conversation, path, state=state)

    @classmethod
    async def restore(
        cls,
        path: str | os.PathLike[str],
        model: AsyncModel,
        *,
        tools: Tools | None = None,
        on_tool_call: AsyncOnToolCall | None = None,
        overflow: Overflow | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Self:
        """Return a session that goes on from a file; `restored` tells what became of the model's state in it.

        See `ChatSession.restore`. The event loop goes on meanwhile.
        """
        saved = await to_thread(saving.read, path)
        saving.check_tools(saved, tools)
        session = cls(
            model,
            tools=tools or (),
            on_tool_call=on_tool_call,
            overflow=saving.overflow_of(saved, overflow),
            **saving.merged(saved, options),
        )
        session._restored = await to_thread(saving.go_on, session._conversation, saved, path)
        return session

    async def preload(self, draft: str = "") -> None:
        """Have the model read the conversation ahead, so that the next reply begins sooner; returns at once.

        A hint: it replaces the one before, a reply to something else ends it, and if it fails, only the log says so
        (DEBUG).

        Args:
            draft: What the user has typed so far.

        Raises:
            InvalidPromptError: Lone surrogates or NUL in the draft; PromptTypeError if it is no str.
            SessionBusyError: A reply of this session has not ended.
            ClosedError: The model is closed.
        """
        self._conversation.preload(draft)


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

"""The async twin of `localllm.session`, over the same conversation."""

from __future__ import annotations

import copy
import os
from asyncio import to_thread
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Self, Unpack

from localllm import saving
from localllm.ahead import guessed
from localllm.aio.asking import AsyncAsking
from localllm.aio.model import AsyncModel
from localllm.aio.pump import LoopPump
from localllm.aio.tools import LoopToolRun
from localllm.chat.overflow import Overflow
from localllm.conversation import Conversation
from localllm.errors import InvalidOptionError
from localllm.options import GenerationOptions
from localllm.saved.state import StateUse
from localllm.stages import RunCalls, StageSink
from localllm.tools.approval import AsyncOnToolCall, check_hook
from localllm.tools.run import ToolRun
from localllm.tools.tool import Toolbox, Tools
from localllm.turn import Turn
from localllm.types import Message


class AsyncChatSession(AsyncAsking):
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

    async def complete_prompt(
        self,
        text: str,
        *,
        max_tokens: int | None = 16,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> str:
        """Return how a prompt that the user is typing could go on: the user's words, not an answer to them.

        The history stays as it is, and no tool is called. What is read for it is read for the prompt, too, so that
        `preload` has nothing to add. It comes behind all replies, of other sessions as well, and the next
        `complete_prompt`, `preload` or reply of this session, from another task, ends it: none of them waits.

        Args:
            text: What the user has typed so far. The last word may be a part of one, such as "capi": it goes on within
                the word. After an empty text, or white space, nothing is suggested.
            max_tokens: Tokens to generate at most, those of the last word, which is spelled anew, among them; None is
                to the end of the line.
            temperature: 0 is always the same suggestion.
            seed: Of the random numbers, for another temperature.
            stop: Texts that end it, besides the end of a line and of the user's turn; they are not part of it.
            timeout_s: Seconds after which to return what there is; None is no limit.

        Returns:
            What follows directly on `text`; when something else ended it, what there was by then. Empty if there is
            nothing to suggest.

        Raises:
            InvalidPromptError: Lone surrogates or NUL in the text; PromptTypeError if it is no str.
            InvalidOptionError: An option is out of range.
            SessionBusyError: A reply of this session has not ended.
            ClosedError: The model is closed.
            UnsupportedError: The backend, or the model's chat template, leaves no way to go on with a user's text.
            GenerationError: The model failed; ContextOverflowError where `send` would raise it, too.
            asyncio.CancelledError: The task was cancelled.
        """
        pump = LoopPump()
        turn = Turn(pump.wake)
        options: dict[str, object] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        try:
            if not self._conversation.complete(turn, text, options | {"stop": stop, "timeout_s": timeout_s}):
                return ""
            return guessed(await pump.run(partial(turn.collect, raise_timeout=False)))
        except BaseException:  # the task was cancelled, or it failed
            turn.cancel()
            raise

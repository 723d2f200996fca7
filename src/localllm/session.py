"""A chat with a model: keeps the history, asks, and answers with replies and streams."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Self, Unpack

from localllm import saving
from localllm.ahead import guessed
from localllm.asking import Asking
from localllm.chat.overflow import Overflow
from localllm.conversation import Conversation
from localllm.errors import InvalidOptionError
from localllm.model import Model
from localllm.options import GenerationOptions
from localllm.pump import ThreadPump
from localllm.saved.state import StateUse
from localllm.stages import RunCalls, StageSink
from localllm.tools.approval import OnToolCall, check_hook
from localllm.tools.run import ToolRun
from localllm.tools.threads import ThreadToolRun
from localllm.tools.tool import Toolbox, Tools
from localllm.turn import Turn
from localllm.types import Message


class ChatSession(Asking):
    """A conversation with a model.

    A turn is atomic: the history gains a prompt together with its reply, and with the calls that were run for it and
    their results, or nothing. A cancelled or timed-out reply counts as soon as it has text; one that failed leaves the
    history as it was. Sessions of one model may be used from many threads at once, each session by one at a time.

    Args:
        model: Answers.
        system: Instructions that stay: the first message of the history.
        history: Messages to go on from, such as another session's `history`.
        tools: What the model may call: functions with types and a docstring, `Tool`s, or `ToolDefinition`s, whose calls
            are returned. Calls are run on threads, those of one reply side by side.
        on_tool_call: Asked before each call is run, in the thread that waits for the reply: returns None to approve, a
            ToolCall to run in its place, or a ToolRefusal. What it raises cancels the reply and is raised there.
        overflow: What to do when the conversation is longer than the context window: "error" raises
            ContextOverflowError; "drop_oldest" leaves the oldest turns out of prompts; "summarize" has the model
            summarize those; a function is given the conversation and returns what the model is to read. The system
            message and the newest turn stay, and so does `history`, which keeps all messages.
        options: Options of every reply, unless a call has its own; see `RequestOptions`.

    Raises:
        InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name. A tool that
            cannot be used: no types, two of one name, a coroutine function.
        InvalidPromptError: A history that is no conversation; PromptTypeError if something is no Message.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        history: Iterable[Message] = (),
        tools: Tools = (),
        on_tool_call: OnToolCall | None = None,
        overflow: Overflow = "error",
        **options: Unpack[GenerationOptions],
    ) -> None:
        if not isinstance(model, Model):
            raise InvalidOptionError(
                f"model must be a Model, as ModelManager.load returns it, not {type(model).__name__}; "
                "for an AsyncModel use AsyncChatSession"
            )
        box = Toolbox.of(tools, awaits=False)
        check_hook(on_tool_call, awaits=False)

        def run(stage: RunCalls, timeout_s: float | None, sink: StageSink) -> ToolRun:
            return ThreadToolRun(stage, box, on_tool_call, timeout_s, sink)

        self._conversation = Conversation(
            model, system=system, history=history, overflow=overflow, box=box, runner=run, options=options
        )
        self._restored: StateUse | None = None

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._conversation.model

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages so far, those left out of prompts by now, too; a running reply is not among them."""
        return self._conversation.history

    @property
    def restored(self) -> StateUse | None:
        """For a session from a file: for how many tokens its state is used, and why not for more. None for others."""
        return self._restored

    def fork(self) -> Self:
        """Return a session that goes on from here on its own; a reply that is running stays with this one."""
        forked = copy.copy(self)
        forked._conversation = self._conversation.fork()
        return forked

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn: its prompt, all of a sequence, and its reply, with its calls and their results.

        Returns:
            The messages taken back; none if there is no turn.

        Raises:
            SessionBusyError: A reply of this session has not ended.
        """
        return self._conversation.undo()

    def reset(self) -> None:
        """Forget everything but the system message.

        Raises:
            SessionBusyError: A reply of this session has not ended.
        """
        self._conversation.reset()

    def save(self, path: str | os.PathLike[str], *, state: bool = True) -> StateUse:
        """Write the session into a file, whole or not at all: history, options, and what the model has read of it.

        With the state, a restored session need not be read again; it takes some 23 KB a token of a model of 135M
        parameters. Tools and functions are not saved. docs/sessions.md has the format.

        Args:
            path: The file; replaced if there is one.
            state: Whether to save the model's state, too, as far as it is cached.

        Returns:
            For how many tokens there is a state in the file, and why not for more.

        Raises:
            SessionFileError: The file cannot be written; an old one is as it was.
            SessionBusyError: A reply of this session has not ended.
            InvalidOptionError: Something that is no path.
            ClosedError: The model is closed.
        """
        return saving.save(self._conversation, path, state=state)

    @classmethod
    def restore(
        cls,
        path: str | os.PathLike[str],
        model: Model,
        *,
        tools: Tools | None = None,
        on_tool_call: OnToolCall | None = None,
        overflow: Overflow | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Self:
        """Return a session that goes on from a file; `restored` tells what became of the model's state in it.

        Every byte of the file is verified first. The state is used if the same model computed it, loaded in the same
        way by the same build; else the history is read again.

        Args:
            path: The file.
            model: Answers; it need not be the one that the session was saved with.
            tools: The session's tools, which no file holds; to be given if it had any, () to go on without.
            on_tool_call: As for a new session.
            overflow: In place of the policy that it had.
            options: Over those that it had.

        Raises:
            DamagedSessionError: The file is damaged, cut off, of a later version, or no saved session.
            SessionFileError: It cannot be read.
            InvalidOptionError: As for a new session; or it had tools, or a function for `overflow`, that are missing.
            ClosedError: The model is closed.
        """
        saved = saving.read(path)
        saving.check_tools(saved, tools)
        session = cls(
            model,
            tools=tools or (),
            on_tool_call=on_tool_call,
            overflow=saving.overflow_of(saved, overflow),
            **saving.merged(saved, options),
        )
        session._restored = saving.go_on(session._conversation, saved, path)
        return session

    def preload(self, draft: str = "") -> None:
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

    def complete_prompt(
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
        `complete_prompt`, `preload` or reply of this session, from another thread, ends it: none of them waits.

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
        """
        pump = ThreadPump()
        turn = Turn(pump.wake)
        options: dict[str, object] = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        try:
            if not self._conversation.complete(turn, text, options | {"stop": stop, "timeout_s": timeout_s}):
                return ""
            return guessed(pump.run(partial(turn.collect, raise_timeout=False)))
        except BaseException:  # Ctrl-C, or it failed
            turn.cancel()
            raise

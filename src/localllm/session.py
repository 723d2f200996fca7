"""A chat with a model: keeps the history, asks, and answers with replies and streams."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Self, Unpack

from localllm.conversation import Conversation, Overflow
from localllm.errors import InvalidOptionError
from localllm.model import Model
from localllm.options import GenerationOptions
from localllm.pump import ThreadPump
from localllm.stream import ChatStream
from localllm.turn import Turn
from localllm.types import Message, Prompt, Reply


class ChatSession:
    """A conversation with a model.

    A turn is atomic: the history gains a prompt together with its reply, or neither. A cancelled or timed-out reply
    counts as soon as it has text; one that failed leaves the history as it was. Sessions of one model may be used
    from many threads at once, each session by one at a time.

    Args:
        model: Answers.
        system: Instructions that stay: the first message of the history.
        history: Messages to go on from, such as another session's `history`.
        overflow: What to do when the conversation is longer than the context window: "error" raises
            ContextOverflowError.
        options: Options of every reply, unless a call has its own; see `RequestOptions`.

    Raises:
        InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
        InvalidPromptError: A history that is no conversation; PromptTypeError if something is no Message.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        history: Iterable[Message] = (),
        overflow: Overflow = "error",
        **options: Unpack[GenerationOptions],
    ) -> None:
        if not isinstance(model, Model):
            raise InvalidOptionError(
                f"model must be a Model, as ModelManager.load returns it, not {type(model).__name__}; "
                "for an AsyncModel use AsyncChatSession"
            )
        self._conversation = Conversation(model, system=system, history=history, overflow=overflow, options=options)

    @property
    def model(self) -> Model:
        """The model that answers."""
        return self._conversation.model

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages so far, the system message first; a running reply is not among them."""
        return self._conversation.history

    def send(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> Reply:
        """Ask, wait for the whole reply, and return it.

        Args:
            prompt: A user's text, a message, or several to append to the history; the last one is from the user or
                a tool, and a system message may only be the very first of the conversation.
            options: Over the session's own.

        Returns:
            The reply; with the finish reason "cancelled" if the model was closed meanwhile.

        Raises:
            InvalidPromptError: The prompt cannot be used; PromptTypeError if it is of the wrong type.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
            SessionBusyError: Another reply of this session has not ended.
            ClosedError: The model is closed.
            GenerationTimeoutError: `timeout_s` passed; the exception's `.reply` is the partial reply.
            GenerationError: The reply failed; the exception's `.reply` is what there was of it.
            KeyboardInterrupt: Ctrl-C cancelled it; the history keeps what was received.
        """
        return _collect(lambda turn: self._conversation.ask(turn, prompt, options))

    def stream(self, prompt: Prompt, **options: Unpack[GenerationOptions]) -> ChatStream:
        """Ask, and return the reply as a stream at once.

        Args:
            prompt: As for `send`.
            options: Over the session's own.

        Raises:
            InvalidPromptError: The prompt cannot be used; PromptTypeError if it is of the wrong type.
            InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
            SessionBusyError: Another reply of this session has not ended.
            ClosedError: The model is closed.
        """
        return _stream(lambda turn: self._conversation.ask(turn, prompt, options))

    def regenerate(self, **options: Unpack[GenerationOptions]) -> Reply:
        """Answer the last prompt again, in place of the last reply, and return the new one.

        If the new reply fails, or is cancelled before any text, the old one stays.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `send`.
        """
        return _collect(lambda turn: self._conversation.ask_again(turn, options))

    def stream_regenerate(self, **options: Unpack[GenerationOptions]) -> ChatStream:
        """Answer the last prompt again, like `regenerate`, and return the new reply as a stream at once.

        Raises:
            InvalidPromptError: The history does not end with a reply to something.
            LocalLLMError: As `stream`.
        """
        return _stream(lambda turn: self._conversation.ask_again(turn, options))

    def fork(self) -> Self:
        """Return a session that goes on from here on its own; a reply that is running stays with this one."""
        forked = copy.copy(self)
        forked._conversation = self._conversation.fork()
        return forked

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn: its prompt, all of a sequence, and its reply.

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


def _collect(start: Callable[[Turn], None]) -> Reply:
    pump = ThreadPump()
    turn = Turn(pump.wake)
    try:
        start(turn)
        return pump.run(turn.collect)
    except BaseException:  # Ctrl-C; a failed turn is settled already
        turn.cancel(received=True)
        raise


def _stream(start: Callable[[Turn], None]) -> ChatStream:
    pump = ThreadPump()
    turn = Turn(pump.wake)
    try:
        start(turn)
        return ChatStream(turn, pump)  # from here on its finalizer cancels
    except BaseException:
        turn.cancel()
        raise

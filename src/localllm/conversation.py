"""What both kinds of session are inside: a history, default options, and at most one turn at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Literal, assert_never

from attrs import frozen

from localllm.backends.base import GenerateHandle, GenerateRequest
from localllm.chat.history import History
from localllm.errors import InvalidOptionError, SessionBusyError
from localllm.model import Model
from localllm.options import RequestOptions
from localllm.turn import Turn
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    Message,
    Prompt,
    PromptProgress,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)

Overflow = Literal["error"]
"""What to do with a conversation that is longer than the context window."""

_OVERFLOWS: tuple[Overflow, ...] = ("error",)

_log = logging.getLogger("localllm.session")


class Conversation:
    """The state of a session. All methods return at once; what waits is the turn's consumer.

    Args:
        model: Answers.
        system: The system message, if any.
        history: The messages so far.
        overflow: What to do when the context window is full.
        options: Options of every reply, unless a call has its own.

    Raises:
        InvalidOptionError: An option is unknown or out of range.
        InvalidPromptError: A history that is no conversation.
    """

    def __init__(
        self,
        model: Model,
        *,
        system: str | None,
        history: Iterable[Message],
        overflow: Overflow,
        options: Mapping[str, object],
    ) -> None:
        if overflow not in _OVERFLOWS:
            raise InvalidOptionError(
                f"overflow must be one of {', '.join(map(repr, _OVERFLOWS))}; got {overflow!r:.80}"
            )
        checked = RequestOptions.of(options)
        self.model = model
        self._overflow = overflow
        # As validated, so that a list which the caller changes later changes nothing here.
        self._options: dict[str, object] = {name: getattr(checked, name) for name in options}
        self._history = History.of(system, history)
        self._turn: Turn | None = None
        self._preload: _Preload | None = None
        self._lock = RLock()  # reentrant: a signal handler may cancel, and so settle a turn, in the middle of anything

    @property
    def history(self) -> tuple[Message, ...]:
        """The messages of all ended turns, the system message first."""
        self._settle_dropped()
        return self._history.messages

    def ask(self, turn: Turn, prompt: Prompt, options: Mapping[str, object]) -> None:
        """Start `turn` as the answer to `prompt`. The caller cancels the turn if this raises, whatever it is.

        Raises:
            InvalidPromptError: The prompt cannot be used here.
            InvalidOptionError: An option is unknown or out of range.
            SessionBusyError: Another turn is running.
            ClosedError: The model is closed.
        """
        self._start(turn, lambda history: history.asked(prompt), options)

    def ask_again(self, turn: Turn, options: Mapping[str, object]) -> None:
        """Start `turn` as another answer in place of the last one. Raises like `ask`."""
        self._start(turn, History.unanswered, options)

    def preload(self, draft: str) -> None:
        """Have the model read the history and `draft`, in place of what it was last told to read.

        Raises:
            InvalidPromptError: The draft cannot be used.
            SessionBusyError: A turn is running.
            ClosedError: The model is closed.
        """
        with self._idle():
            messages = self._history.drafted(draft)
            self._cancel_preload()
            if messages:
                options = RequestOptions.of(self._options)
                request = GenerateRequest(messages=messages, options=options, purpose="preload")
                self._preload = _Preload(self.model.submit(request, _log_preload), messages)

    def fork(self) -> Conversation:
        """Return a conversation that goes on from here on its own; a running turn stays with this one."""
        self._settle_dropped()
        copy = Conversation(self.model, system=None, history=(), overflow=self._overflow, options=self._options)
        copy._history = self._history
        return copy

    def undo(self) -> tuple[Message, ...]:
        """Take back the last turn and return its messages.

        Raises:
            SessionBusyError: A turn is running.
        """
        with self._idle():
            self._cancel_preload()
            self._history, removed = self._history.undone()
            return removed

    def reset(self) -> None:
        """Forget all but the system message.

        Raises:
            SessionBusyError: A turn is running.
        """
        with self._idle():
            self._cancel_preload()
            self._history = self._history.cleared()

    def _start(self, turn: Turn, change: Callable[[History], History], options: Mapping[str, object]) -> None:
        checked = RequestOptions.of(self._options, options)
        with self._idle():
            asked = change(self._history)
            self._cancel_preload(unless_read_for=asked.messages)
            self._turn = turn
        request = GenerateRequest(messages=asked.messages, options=checked)
        turn.start(partial(self.model.submit, request), partial(self._keep, asked), checked.timeout_s)

    def _keep(self, asked: History, message: Message | None) -> None:
        """End the turn: with `message` both the prompt and the reply are kept, without it neither."""
        with self._lock:
            self._turn = None
            if message is not None:
                self._history = asked.answered(message)

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """Hold the lock, if no turn is running."""
        self._settle_dropped()
        with self._lock:
            if self._turn is not None and not self._turn.settled:
                raise SessionBusyError(
                    "this session is in the middle of a reply: read its stream to the end, cancel it or drop it first "
                    "(leaving a `with` or a `for` does); to talk to the model twice at once use fork() or another "
                    "session"
                )
            yield

    def _settle_dropped(self) -> None:
        # Outside the lock: a turn's lock comes before the session's.
        turn = self._turn
        if turn is not None:
            turn.settle_if_dropped()

    def _cancel_preload(self, *, unless_read_for: tuple[Message, ...] = ()) -> None:
        preload, self._preload = self._preload, None
        if preload is not None and not preload.begins(unless_read_for):
            preload.handle.cancel()


@frozen
class _Preload:
    """Messages that the model was told to read.

    Args:
        handle: Ends the reading.
        messages: What is read; the last one may be an unfinished draft.
    """

    handle: GenerateHandle
    messages: tuple[Message, ...]

    def begins(self, messages: tuple[Message, ...]) -> bool:
        """Whether reading on saves work for `messages`; if not, it would only be in the way of them."""
        known = len(self.messages) - 1
        if len(messages) <= known or messages[:known] != self.messages[:known]:
            return False
        draft, whole = self.messages[known], messages[known]
        return draft.role == whole.role and whole.content.startswith(draft.content)


def _log_preload(event: BackendEvent) -> None:
    """The sink of a preload, which is a hint: that it failed matters to nobody but a reader of logs."""
    match event:
        case GenerationEnded():
            if event.error is not None:
                _log.debug("a preload failed: %s", event.error)
        case PromptProgress() | TextDelta() | ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
            return
        case _:
            assert_never(event)

"""What a session has its model do ahead of the next prompt: read a draft of it, or guess how it goes on.

Both are for a user who is still typing, so the newest of them is the only one, and what the user sends goes first.
"""

from __future__ import annotations

import logging
from typing import assert_never

from attrs import define, frozen

from localllm.backends.base import GenerateHandle
from localllm.turn import Turn
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    Message,
    PromptProgress,
    Reply,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)

_log = logging.getLogger("localllm.session")


@frozen
class Preload:
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


@define(eq=False)
class Ahead:
    """What runs ahead of a session's next prompt. The session's lock guards it."""

    _preload: Preload | None = None
    _guess: Turn | None = None

    def read(self, preload: Preload) -> None:
        """Remember what is being read, in place of what is there; see `end`."""
        self._preload = preload

    def guess(self, turn: Turn, messages: tuple[Message, ...]) -> None:
        """Remember a guess at how `messages` go on; the one before ends, and so does reading that it has no use for."""
        if self._preload is not None and not self._preload.begins(messages):
            self.end()
        self._end_guess()
        self._guess = turn

    def end(self, *, unless_read_for: tuple[Message, ...] = ()) -> None:
        """End all of it, but for reading that saves work for a prompt which is sent now."""
        self._end_guess()
        preload, self._preload = self._preload, None
        if preload is not None and not preload.begins(unless_read_for):
            preload.handle.cancel()

    def _end_guess(self) -> None:
        # Within the session's lock, which a guess never takes: it keeps nothing.
        guess, self._guess = self._guess, None
        if guess is not None:
            guess.cancel(received=True)


def guessed(reply: Reply[object]) -> str:
    """Return the text of a guess, without a character of which `max_tokens` has left a part only."""
    return reply.text.rstrip("\ufffd")


def log_preload(event: BackendEvent) -> None:
    """Be the sink of a preload, which is a hint: that it failed matters to nobody but a reader of logs."""
    match event:
        case GenerationEnded():
            if event.error is not None:
                _log.debug("a preload failed: %s", event.error)
        case PromptProgress() | TextDelta() | ToolCallStarted() | ToolCallDelta() | ToolCallEnded():
            return
        case _:
            assert_never(event)


def keep_nothing(made: tuple[Message, ...] | None) -> None:
    """Be what a guess tells at its end: the history stays as it is."""

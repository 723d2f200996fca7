"""What a turn is made of: stages, one after the other, and who decides on the next.

A turn begins a stage, folds the events that it pushes, and at its one end event asks its course what comes next. So a
plain reply is one stage; tools, or a conversation that has to be shortened, make it several. Everything here is a
value: who carries a stage out is passed in as `Begin`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias, assert_never

from attrs import evolve, field, frozen

from localllm._json import JsonValue
from localllm.backends.base import GenerateHandle, GenerateRequest, Sink
from localllm.chat.history import History
from localllm.chat.overflow import Shortened
from localllm.errors import ContextOverflowError
from localllm.types import (
    BackendEvent,
    FinishReason,
    GenerationEnded,
    Message,
    ToolCall,
    ToolEnded,
    ToolResult,
    ToolStarted,
)


@frozen
class Ask:
    """Ask the model. Ends with GenerationEnded.

    Args:
        request: What is asked.
        silent: Whether its text is for the turn itself, and no part of the reply.
    """

    request: GenerateRequest
    silent: bool = False


@frozen
class RunCalls:
    """Run the calls of a reply. Ends with CallsEnded.

    Args:
        calls: The calls, in order.
        first: The index of the first of them among all calls of the turn.
        limit_s: Seconds that all of it may take; None is no limit but that of each call.
    """

    calls: tuple[ToolCall, ...]
    first: int = 0
    limit_s: float | None = None


@frozen
class Shorten:
    """Find out what the model is to read of a conversation that is too long. Ends with Shortened.

    Args:
        history: The conversation, the newest turn's prompt included.
        made: What the newest turn has added since.
        overflow: How the backend refused it; None if that is only feared.
        reserve: Tokens to leave free for the reply.
    """

    history: History
    made: tuple[Message, ...] = ()
    overflow: ContextOverflowError | None = None
    reserve: int = 0


Stage: TypeAlias = Ask | RunCalls | Shorten


@frozen
class CallsEnded:
    """All calls of a stage are done with.

    Args:
        results: One for each call, in their order; none if the stage was cancelled.
        failure: What the hook raised that was asked, in place of an answer.
    """

    results: tuple[ToolResult, ...]
    failure: Exception | None = field(default=None)


StageEnd: TypeAlias = GenerationEnded | CallsEnded | Shortened
StageEvent: TypeAlias = BackendEvent | ToolStarted | ToolEnded | CallsEnded | Shortened
"""What a stage pushes: any number of other events, then one StageEnd."""

STAGE_ENDS = (GenerationEnded, CallsEnded, Shortened)

StageSink: TypeAlias = Callable[[StageEvent], None]
"""Where a stage's events go; as a backend's sink."""

Begin: TypeAlias = Callable[[Stage, StageSink], GenerateHandle]
"""Begins a stage, and returns at once; the stage follows the rules of a backend's request."""

Submit: TypeAlias = Callable[[GenerateRequest, Sink], GenerateHandle]
"""Sends a request; as `Model.submit`."""

_LEAST_S = 0.001
"""What a stage is given at least, where a time limit has all but passed: it must be above 0."""


def never_begun(stage: Stage, sink: StageSink) -> GenerateHandle:
    """Stand for who carries stages out, until a turn is started."""
    raise RuntimeError("a turn that was not started has no stages")


def asking(submit: Submit) -> Begin:
    """Return what carries out the stages of a `OneReply`."""

    def begin(stage: Stage, sink: StageSink) -> GenerateHandle:
        if not isinstance(stage, Ask):
            raise TypeError(f"a turn of one reply only asks; {stage!r:.80}")
        return submit(stage.request, sink)

    return begin


def limited(stage: Stage, left_s: float | None) -> Stage:
    """Return a later stage of a turn with the time that is left for it; None is no limit."""
    if left_s is None:
        return stage
    left_s = max(left_s, _LEAST_S)
    match stage:
        case Ask():
            options = evolve(stage.request.options, timeout_s=left_s)
            return evolve(stage, request=evolve(stage.request, options=options))
        case RunCalls():
            return evolve(stage, limit_s=left_s)
        case Shorten():
            return stage
        case _:
            assert_never(stage)


class Course(Protocol):
    """Decides on a turn's stages, one by one, and remembers what it decided; no I/O, and quick."""

    @property
    def makes_values(self) -> bool:
        """Whether the reply is to be a value, for which `partial` tells what it is so far."""

    def first(self) -> Stage:
        """Return the stage that the turn begins with."""

    def after_reply(self, ended: GenerationEnded, message: Message, text: str) -> Stage | None:
        """Return the stage after one that asked the model; None if the turn is over.

        Args:
            ended: How it ended.
            message: What the model said, as the history would keep it.
            text: The stage's own text, of a silent one too.
        """

    def after_calls(self, results: tuple[Message, ...]) -> Stage:
        """Return the stage after one that ran calls, given their results as messages."""

    def after_shortening(self, shortened: Shortened) -> Stage:
        """Return the stage after one that shortened the conversation, which found something to read."""

    def partial(self, piece: str) -> JsonValue:
        """Return what the text so far can be read as, None if as nothing.

        Args:
            piece: What has come of it since the last time.
        """

    def conclude(self, message: Message, reason: FinishReason) -> object:
        """Return what the reply is as a value, None where it is nothing but text.

        Raises:
            TruncatedOutputError: The reply ended before it was whole.
            OutputValidationError: The reply is not what it should be.
        """


@frozen
class OneReply:
    """The course of a turn that asks the model once, and takes what it says.

    Args:
        request: What is asked.
    """

    request: GenerateRequest

    @property
    def makes_values(self) -> bool:
        """No."""
        return False

    def first(self) -> Stage:
        """Ask."""
        return Ask(self.request)

    def after_reply(self, ended: GenerationEnded, message: Message, text: str) -> Stage | None:
        """Be done."""
        return None

    def after_calls(self, results: tuple[Message, ...]) -> Stage:
        """No calls are run, so that nothing comes after them."""
        raise RuntimeError("a turn of one reply runs no calls")

    def after_shortening(self, shortened: Shortened) -> Stage:
        """Nothing is shortened, so that nothing comes after it."""
        raise RuntimeError("a turn of one reply shortens nothing")

    def partial(self, piece: str) -> JsonValue:
        """Return None: the reply is text."""
        return None

    def conclude(self, message: Message, reason: FinishReason) -> object:
        """Return None: the reply is text."""
        return None

"""The hook that is asked before a call is run: it approves, changes or refuses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from attrs import evolve, frozen

from localllm._json import check_text
from localllm.errors import InvalidOptionError, ToolRefusedError
from localllm.tools.results import failed
from localllm.tools.signature import is_async
from localllm.types import ToolCall, ToolResult


@frozen
class ToolRefusal:
    """A hook's answer to a call that is not to be run.

    Args:
        reason: Why, as the model is told.
    """

    reason: str = ""


Approval: TypeAlias = ToolCall | ToolRefusal | str | None
"""A hook's answer: None approves, a ToolCall is run in its place, a ToolRefusal or a str refuses, with the reason."""

OnToolCall: TypeAlias = Callable[[ToolCall], Approval]
"""Asked before each call is run, one call after the other, in the thread that waits for the reply."""

AsyncOnToolCall: TypeAlias = Callable[[ToolCall], Approval | Awaitable[Approval]]
"""The same in an async session, where it may be a coroutine function; else it is called in the event loop's thread."""


def check_hook(hook: AsyncOnToolCall | None, *, awaits: bool) -> None:
    """Raise InvalidOptionError unless `hook` can be asked; a coroutine function only by a session that `awaits`."""
    given: object = hook  # what users pass may be anything
    if given is not None and not callable(given):
        raise InvalidOptionError(f"on_tool_call must be a function or None; got {given!r:.80}")
    if hook is not None and is_async(hook) and not awaits:
        raise InvalidOptionError(
            "on_tool_call is a coroutine function, which a ChatSession cannot await; use an AsyncChatSession, or give "
            "it a plain function"
        )


def decided(call: ToolCall, answer: object) -> ToolCall | ToolResult:
    """Return the call to be run, or the result of one that is not.

    Raises:
        InvalidOptionError: The answer is none of those that there are.
    """
    match answer:
        case None:
            return call
        case ToolCall():
            return evolve(answer, id=call.id)
        case ToolRefusal() | str():
            reason = check_text(answer if isinstance(answer, str) else answer.reason, "the reason of a refusal")
            return failed(call, ToolRefusedError(f"the call was refused{': ' if reason else ''}{reason}"))
        case _:
            raise InvalidOptionError(
                f"on_tool_call must return None (run the call), a ToolCall (run that) or a ToolRefusal; got "
                f"{answer!r:.80}"
            )

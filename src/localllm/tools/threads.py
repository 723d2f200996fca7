"""Calls run on threads: one each, so that the calls of one reply run side by side."""

from __future__ import annotations

import contextvars
import inspect
from collections import deque
from threading import Thread

from localllm.backends.clock import Bell
from localllm.errors import ToolError
from localllm.stages import RunCalls, StageSink
from localllm.tools.approval import OnToolCall, decided
from localllm.tools.results import failed, succeeded
from localllm.tools.run import ToolRun
from localllm.tools.tool import Tool, Toolbox
from localllm.types import ToolCall, ToolResult


class ThreadToolRun(ToolRun):
    """Runs calls on threads. One that takes too long is abandoned: a thread cannot be stopped.

    The hook is asked in the consumer's own thread, where `input` and Ctrl-C work as they do everywhere else.

    Args:
        stage: The calls.
        box: The tools.
        hook: Asked before each call.
        timeout_s: Seconds for each call.
        sink: Where events go.
    """

    def __init__(
        self, stage: RunCalls, box: Toolbox, hook: OnToolCall | None, timeout_s: float | None, sink: StageSink
    ) -> None:
        super().__init__(stage, box, timeout_s, sink)
        self._hook = hook
        self._waiting = deque(enumerate(stage.calls))
        self._bells: dict[int, Bell] = {}  # a time limit's: rung when it is of no interest any more
        if hook is None:
            for place, call in enumerate(stage.calls):
                self._start(place, call)

    def attend(self) -> bool:
        """Ask the hook about the next call, and start the call."""
        if self._hook is None or self._over:
            return False
        try:
            place, call = self._waiting.popleft()
        except IndexError:
            return False
        decision = decided(call, self._hook(call))
        if isinstance(decision, ToolResult):
            self._end(place, decision)
        else:
            self._start(place, decision)
        return True

    def _start(self, place: int, call: ToolCall) -> None:
        tool = self._tool(place, call)
        if tool is None:
            return
        if self._limit_s is not None:
            bell = self._bells[place] = Bell()  # a Timer's cancel takes a lock, which a finalizer must not
            Thread(target=self._watch, args=(place, call, bell), name="localllm-tool-limit", daemon=True).start()
        # Context variables go along, as with asyncio.to_thread: a request's id, say, or a language.
        work = contextvars.copy_context().run
        Thread(
            target=work, args=(self._work, place, tool, call), name=f"localllm-tool-{tool.name}", daemon=True
        ).start()

    def _work(self, place: int, tool: Tool, call: ToolCall) -> None:
        self._end(place, run_call(tool, call))
        if (bell := self._bells.get(place)) is not None:
            bell.ring()

    def _watch(self, place: int, call: ToolCall, bell: Bell) -> None:
        bell.wait(self._limit_s)
        self._end(place, self._late(call))  # of no effect on a call that has ended

    def _stop(self) -> None:
        for bell in list(self._bells.values()):
            bell.ring()


def run_call(tool: Tool, call: ToolCall) -> ToolResult:
    """Run a call in this thread, and return what came of it, whatever that is."""
    try:
        value = tool.call(call.arguments)
        if inspect.iscoroutine(value):
            value.close()
            raise ToolError(f"the tool {tool.name!r} returned a coroutine; only an AsyncChatSession can await it")
        return succeeded(call, value)
    except BaseException as exc:  # noqa: BLE001  # SystemExit too: on this thread it would end nothing but it
        return failed(call, exc)

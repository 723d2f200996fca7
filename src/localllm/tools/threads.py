"""Calls run on threads: one each, so that the calls of one reply run side by side."""

from __future__ import annotations

import contextvars
import inspect
from collections import deque
from threading import Thread, Timer

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
        self._timers: dict[int, Timer] = {}
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
            timer = self._timers[place] = Timer(self._limit_s, lambda: self._end(place, self._late(call)))
            timer.daemon = True
            timer.start()
        # Context variables go along, as with asyncio.to_thread: a request's id, say, or a language.
        work = contextvars.copy_context().run
        Thread(
            target=work, args=(self._work, place, tool, call), name=f"localllm-tool-{tool.name}", daemon=True
        ).start()

    def _work(self, place: int, tool: Tool, call: ToolCall) -> None:
        result = run_call(tool, call)
        if (timer := self._timers.get(place)) is not None:
            timer.cancel()
        self._end(place, result)

    def _stop(self) -> None:
        for timer in list(self._timers.values()):
            timer.cancel()


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

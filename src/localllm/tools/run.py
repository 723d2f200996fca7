"""A stage that runs calls: what a turn sees of it, whoever runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from threading import Lock

from localllm.errors import ToolError, ToolTimeoutError
from localllm.stages import CallsEnded, RunCalls, StageSink
from localllm.tools.results import failed
from localllm.tools.tool import Tool, Toolbox
from localllm.types import ToolCall, ToolEnded, ToolResult, ToolStarted


class ToolRun(ABC):
    """Calls that are being run; ends with CallsEnded, and follows the rules of a backend's request.

    Of each call the first end counts: its result, or that it took too long. After `cancel` nothing counts.

    Args:
        stage: The calls.
        box: The tools.
        timeout_s: Seconds for each call.
        sink: Where events go.
    """

    def __init__(self, stage: RunCalls, box: Toolbox, timeout_s: float | None, sink: StageSink) -> None:
        self._calls = stage.calls
        self._box = box
        self._limit_s = min((limit for limit in (timeout_s, stage.limit_s) if limit is not None), default=None)
        self._first = stage.first
        self._sink = sink
        self._telling = Lock()  # calls end on threads of their own, and a sink is told one thing at a time
        self._results: dict[int, ToolResult] = {}
        self._over = False

    def cancel(self) -> None:
        """End the stage now; what does not stop is abandoned, its result ignored. Takes no lock."""
        self._over = True
        self._sink(CallsEnded(()))
        self._stop()

    def attend(self) -> bool:
        """Do a piece of what is to be done in the consumer's own thread; False if there is nothing.

        Raises:
            BaseException: What the hook raised.
        """
        return False

    @abstractmethod
    def _stop(self) -> None:
        """Stop what can be stopped; takes no lock."""

    def _tool(self, place: int, call: ToolCall) -> Tool | None:
        """Return the tool that is to be run now, and tell that it is; None if there is none."""
        tool = self._box.find(call.name)
        if tool is None or tool.function is None:
            names = ", ".join(item.name for item in self._box.tools if item.function is not None)
            error = ToolError(f"there is no tool {call.name!r:.80} that can be run, only {names or 'none'}")
            self._end(place, failed(call, error))
            return None
        with self._telling:
            if self._over:
                return None
            self._sink(ToolStarted(self._first + place, call))
        return tool

    def _end(self, place: int, result: ToolResult) -> None:
        """Tell a call's end, unless it has one, and after the last call's the stage's."""
        with self._telling:
            if self._over or place in self._results:
                return
            self._results[place] = result
            self._sink(ToolEnded(self._first + place, result))
            if len(self._results) == len(self._calls):
                self._over = True
                self._sink(CallsEnded(tuple(self._results[index] for index in range(len(self._calls)))))

    def _late(self, call: ToolCall) -> ToolResult:
        limit = "its time limit" if self._limit_s is None else f"{self._limit_s:.3g} seconds"
        return failed(call, ToolTimeoutError(f"the call of {call.name} took longer than {limit} and was given up"))

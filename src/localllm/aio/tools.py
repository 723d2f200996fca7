"""Calls run for an async session: coroutine functions on the event loop, others on threads."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from localllm.stages import CallsEnded, RunCalls, StageSink
from localllm.tools.approval import AsyncOnToolCall, decided
from localllm.tools.results import failed, succeeded
from localllm.tools.run import ToolRun
from localllm.tools.tool import Tool, Toolbox
from localllm.types import ToolCall, ToolResult


class LoopToolRun(ToolRun):
    """Runs calls as tasks, all at once. What takes too long is cancelled; a plain function's thread is abandoned.

    Args:
        stage: The calls.
        box: The tools.
        hook: Asked before each call, one after the other; awaited if it has to be.
        timeout_s: Seconds for each call.
        sink: Where events go.
    """

    def __init__(
        self, stage: RunCalls, box: Toolbox, hook: AsyncOnToolCall | None, timeout_s: float | None, sink: StageSink
    ) -> None:
        super().__init__(stage, box, timeout_s, sink)
        self._hook = hook
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for place, call in enumerate(self._calls):
                    decision = await self._ask(call)
                    if isinstance(decision, ToolResult):
                        self._end(place, decision)
                    else:
                        group.create_task(self._call(place, decision))
        except* Exception as group:  # noqa: BLE001  # of the hook: the calls' own are their results
            self._over = True
            self._sink(CallsEnded((), failure=group.exceptions[0]))

    async def _ask(self, call: ToolCall) -> ToolCall | ToolResult:
        if self._hook is None:
            return call
        answer = self._hook(call)
        return decided(call, await answer if inspect.isawaitable(answer) else answer)

    async def _call(self, place: int, call: ToolCall) -> None:
        tool = self._tool(place, call)
        if tool is None:
            return
        limit = asyncio.timeout(self._limit_s)
        try:
            async with limit:
                result = await _run_call(tool, call)
        except TimeoutError:  # the limit's own: a tool's is its result
            result = self._late(call)
        if limit.expired():
            result = self._late(call)
        self._end(place, result)

    def _stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and the task gone with it
            self._loop.call_soon_threadsafe(self._task.cancel)


async def _run_call(tool: Tool, call: ToolCall) -> ToolResult:
    """Run a call, and return what came of it; only a cancel gets through."""
    try:
        if tool.is_async:
            value = tool.call(call.arguments)
        else:
            value = await _on_thread(lambda: tool.call(call.arguments), f"localllm-tool-{tool.name}")
        return succeeded(call, await value if inspect.isawaitable(value) else value)
    except asyncio.CancelledError as exc:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return failed(call, exc)  # the tool's own, of something that it had awaited
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # what a tool raises is its result
        return failed(call, exc)


async def _on_thread(work: Callable[[], object], name: str) -> object:
    """Await `work`, done on a thread of its own: those of the loop's executor are waited for when the program ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(work)
        except BaseException as exc:  # noqa: BLE001  # to be raised where it is awaited
            tell: Callable[[], None] = lambda exc=exc: _set(done, None, exc)  # type: ignore[misc]  # noqa: E731
        else:
            tell = lambda: _set(done, value, None)  # noqa: E731
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(tell)

    Thread(target=run, name=name, daemon=True).start()
    return await done


def _set(future: asyncio.Future[object], value: object, error: BaseException | None) -> None:
    if future.done():  # given up
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):  # a future cannot raise it
        future.set_exception(RuntimeError(f"the tool raised StopIteration: {error}"))
    else:
        future.set_exception(error)

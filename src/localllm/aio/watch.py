"""The async twin of `localllm.residency.subscription`: what happens in a manager, told in the event loop."""

from __future__ import annotations

import inspect
import logging
from asyncio import get_running_loop
from types import TracebackType
from typing import Literal, Self

from localllm.aio.pump import LoopPump
from localllm.pump import Pending
from localllm.residency.events import ManagerEvent
from localllm.residency.subscription import Listener, Open

_log = logging.getLogger("localllm.manager")


class AsyncWatch:
    """What happens in a manager, as an async iterator: a snapshot first, the end when the manager is closed.

    For one task at a time. Leaving an `async with` closes it, and so does dropping it.

    Args:
        source: Makes where the events come from.

    Raises:
        ClosedError: The manager is closed.
    """

    def __init__(self, source: Open) -> None:
        self._pump = LoopPump()
        self._closed = False
        self._source = source(self._pump.wake)
        self._end = self._source.feed.end

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ManagerEvent:
        """Wait for the next event.

        Raises:
            StopAsyncIteration: There are no more.
        """
        event = await self._pump.run(self._step)
        if event is None:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Give no more events. May be called twice."""
        self.close()

    def close(self) -> None:
        """Give no more events; returns at once, from any thread."""
        self._closed = True
        self._end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        end = getattr(self, "_end", None)  # there is none if the manager was closed
        if end is not None:
            end()

    def _step(self) -> ManagerEvent | Literal[Pending.PENDING] | None:
        return None if self._closed else self._source.step()


class AsyncSubscription:
    """A listener that is told in the event loop what happens, until it is closed: by `close`, or by calling it.

    A coroutine function will do, too: the next event waits for it. What it raises is logged.

    Args:
        source: Makes where the events come from.
        listener: Who is told.

    Raises:
        ClosedError: The manager is closed.
    """

    def __init__(self, source: Open, listener: Listener) -> None:
        self._watch = AsyncWatch(source)
        self._task = get_running_loop().create_task(_tell_all(self._watch, listener), name="localllm-watch")

    @property
    def closed(self) -> bool:
        """Whether the listener is told nothing more."""
        return self._task.done() or self._watch._closed

    def close(self) -> None:
        """Tell the listener nothing more; does not wait for a call of it that is under way. May be called twice."""
        self._watch.close()

    def __call__(self) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _tell_all(watch: AsyncWatch, listener: Listener) -> None:
    async for event in watch:
        try:
            told = listener(event)
            if inspect.isawaitable(told):
                await told
        except Exception:  # noqa: BLE001  # a user's own code, which is not to end the task
            _log.exception("a listener of an AsyncModelManager failed at %.200r", event)

"""What `AsyncModel.generate_many` returns: the async twin of `localllm.batch_results`."""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future, ensure_future, get_running_loop
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Literal, Self, TypeAlias

from localllm.aio.pump import LoopPump
from localllm.batch import Batch, BatchItem, BatchResult
from localllm.batch_results import END, End
from localllm.pump import PENDING, Pending
from localllm.types import Prompt

AsyncBatchItems: TypeAlias = Iterable[Prompt | BatchItem] | AsyncIterable[Prompt | BatchItem]
"""What `AsyncModel.generate_many` takes."""

_Fetched: TypeAlias = Prompt | BatchItem | End


class AsyncBatchResults:
    """The results of a batch, as an async iterator; dropping it, `aclose` and any exception cancel what is under way.

    Args:
        items: The prompts.
        batch: Answers them.
        pump: What the batch wakes.
    """

    def __init__(self, items: AsyncBatchItems, batch: Batch, pump: LoopPump) -> None:
        self._batch = batch
        self._pump = pump
        self._source = _Source(items, pump.wake)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult:
        """Wait for the next result.

        Raises:
            StopAsyncIteration: There are no more.
            ClosedError: The model was closed, and there are more prompts.
            BaseException: What the input or `on_progress` raised, or the task's cancellation; nothing is under way
                any more.
        """
        try:
            result = await self._pump.run(self._step, self._batch.retry_in_s)
        except BaseException:
            await self.aclose()
            raise
        if result is None:
            raise StopAsyncIteration
        return result

    async def aclose(self) -> None:
        """Cancel what is under way and give no more results. May be called twice."""
        self._batch.close()
        self._source.close()

    def __del__(self) -> None:
        self._batch.drop()
        self._source.close()

    def _step(self) -> BatchResult | Literal[Pending.PENDING] | None:
        self._pull()  # first, so that the batch is full while the caller looks at a result
        while (result := self._batch.next_result()) is PENDING and self._pull():
            pass
        if self._batch.hungry:  # it may take as long as the caller does
            self._source.fetch()
        return result

    def _pull(self) -> bool:
        """Give the batch an item if it wants one; False if it does not, or if the item is still being fetched."""
        if not self._batch.hungry or (item := self._source.poll()) is PENDING:
            return False
        if isinstance(item, End):
            self._batch.exhaust()
        else:
            self._batch.add(item)
        return True


class _Source:
    """The input, fetched one item at a time and never in the event loop's way.

    A list or a tuple is read at once. Any other iterable may block, being a generator that reads a file, say: it is
    asked on a thread, though never on two at once.

    Args:
        items: The prompts.
        wake: Called when an item is there.
    """

    def __init__(self, items: AsyncBatchItems, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._plain: Iterator[Prompt | BatchItem] | None = None
        self._async: AsyncIterator[Prompt | BatchItem] | None = None
        self._at_once = isinstance(items, (list, tuple))
        if isinstance(items, AsyncIterable):
            self._async = aiter(items)
        else:
            self._plain = iter(items)
        self._loop: AbstractEventLoop | None = None
        self._fetching: Future[_Fetched] | None = None

    def poll(self) -> _Fetched | Literal[Pending.PENDING]:
        """Return the next item, END after the last one, or PENDING while it is being fetched. Raises what it raises."""
        if self._at_once:
            return self._next()
        self.fetch()
        fetching = self._fetching
        if fetching is None or not fetching.done():
            return PENDING
        self._fetching = None
        return fetching.result()

    def fetch(self) -> None:
        """Begin to fetch the next item, unless that is on its way."""
        if self._at_once or self._fetching is not None:
            return
        self._loop = get_running_loop()
        if self._async is not None:
            self._fetching = ensure_future(_anext(self._async))
        else:
            self._fetching = self._loop.run_in_executor(None, self._next)
        self._fetching.add_done_callback(self._fetched)

    def close(self) -> None:
        """Fetch no more; safe in a finalizer, on any thread."""
        fetching, loop = self._fetching, self._loop
        self._plain = self._async = None  # a generator cleans up
        if fetching is not None and loop is not None and not fetching.done():
            with suppress(RuntimeError):  # the loop is closed, and the task gone with it
                loop.call_soon_threadsafe(fetching.cancel)

    def _next(self) -> _Fetched:
        plain = self._plain
        return END if plain is None else next(plain, END)

    def _fetched(self, fetching: Future[_Fetched]) -> None:
        if not fetching.cancelled():
            fetching.exception()  # to be raised by `poll`; if nobody polls any more, then by nobody
        self._wake()


async def _anext(items: AsyncIterator[Prompt | BatchItem]) -> _Fetched:
    return await anext(items, END)

"""`AsyncModel.generate_many`: as the plain one, from inputs that may wait, and never in the event loop's way."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import TypeVar, cast

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModel,
    AsyncModelManager,
    BatchItem,
    BatchProgress,
    BatchResult,
    ClosedError,
    FakeBackend,
    Message,
    ModelConfig,
    Prompt,
    PromptTypeError,
    QueueFullError,
    UnknownOptionError,
)
from localllm.aio.batch import AsyncBatchItems, AsyncBatchResults
from tests.batches import CANCELLED, Choosing
from tests.by_hand import loaded

T = TypeVar("T")


def run(main: Coroutine[object, object, T]) -> T:
    """Run `main`, though not for ever."""
    return asyncio.run(asyncio.wait_for(main, 15))


def echo(*, window: int = 4) -> tuple[AsyncModel, Choosing]:
    """A model that answers each prompt with its own text, but those that begin with "slow"."""
    hand = Choosing(lambda text: not text.startswith("slow"), window=window)
    return AsyncModel(loaded(hand)), hand


async def later(items: Iterable[Prompt | BatchItem]) -> AsyncIterator[Prompt | BatchItem]:
    """The items, each after a turn of the event loop."""
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("given", [list, tuple, iter, later])
@pytest.mark.parametrize("ordered", [False, True])
def test_any_iterable_is_answered(given: Callable[[list[Prompt | BatchItem]], AsyncBatchItems], ordered: bool) -> None:
    """Lists and tuples, plain generators and async ones; every item has one result."""

    async def main() -> None:
        model, _ = echo()
        items: list[Prompt | BatchItem] = ["a", "", BatchItem("k", Message.user("c")), *(str(n) for n in range(20))]
        results = [result async for result in model.generate_many(given(items), ordered=ordered)]
        if ordered:
            assert [result.index for result in results] == list(range(23))
        found = {result.key: result.reply and result.reply.text for result in results}
        assert len(found) == len(results) == 23
        assert (found["0"], found["1"], found["k"], found["22"]) == ("a", None, "c", "19")

    run(main())


def test_progress_is_told_in_the_event_loop() -> None:
    """Before each result; the total is known of a list."""

    async def main() -> None:
        model, _ = echo()
        seen: list[BatchProgress] = []

        def tell(progress: BatchProgress) -> None:
            asyncio.get_running_loop()
            seen.append(progress)

        counts = [len(seen) async for _ in model.generate_many(["a", "b"], on_progress=tell)]
        assert counts == [1, 2]
        assert [(each.done, each.total, each.tokens) for each in seen] == [(1, 2, 2), (2, 2, 4)]

    run(main())


def test_mistakes_in_the_call_are_raised_at_once() -> None:
    """Without an event loop, even."""
    model, _ = echo()
    with pytest.raises(UnknownOptionError):
        model.generate_many(["a"], temprature=1)  # type: ignore[call-arg]
    with pytest.raises(PromptTypeError):
        model.generate_many("text")
    model.sync.close()
    with pytest.raises(ClosedError):
        model.generate_many(["a"])


def test_a_generator_that_blocks_does_not_block_the_event_loop() -> None:
    """It is asked on a thread: here it waits for something that only the event loop does."""

    async def main() -> None:
        model, _ = echo()
        may_go_on = threading.Event()

        def prompts() -> Iterator[str]:
            yield "a"
            assert may_go_on.wait(10)
            yield "b"

        results = model.generate_many(prompts())
        assert (await anext(results)).index == 0  # not held back by the wait for the second prompt
        may_go_on.set()
        assert [result.index async for result in results] == [1]

    run(main())


def test_results_are_not_held_back_by_an_input_that_waits() -> None:
    """So that an input may depend on the results before."""

    async def main() -> None:
        model, _ = echo()
        answered: asyncio.Queue[str] = asyncio.Queue()

        async def prompts() -> AsyncIterator[str]:
            text = "a"
            for _ in range(3):
                yield text
                text = await answered.get() + "a"

        texts = []
        async for result in model.generate_many(prompts()):
            assert result.reply is not None
            texts.append(result.reply.text)
            answered.put_nowait(result.reply.text)
        assert texts == ["a", "aa", "aaa"]

    run(main())


@pytest.mark.parametrize("given", [iter, later])
def test_the_input_is_pulled_as_it_is_needed(given: Callable[[Iterable[Prompt]], AsyncBatchItems]) -> None:
    """Nothing before the first result is asked for, then never more than the window ahead."""

    async def main() -> None:
        model, _ = echo(window=4)
        pulled = 0

        def prompts() -> Iterator[str]:
            nonlocal pulled
            for number in itertools.count():
                pulled += 1
                yield str(number)

        results = model.generate_many(given(prompts()))
        assert pulled == 0
        for count in range(1, 30):
            await anext(results)
            assert pulled <= count + 4

    run(main())


SLOW = ["slow", "slow", "quick"]


async def _raise_in_input(model: AsyncModel) -> None:
    async def prompts() -> AsyncIterator[str]:
        yield "slow"
        yield "slow"
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        await anext(results := model.generate_many(prompts()))
    assert [result async for result in results] == []


async def _raise_in_progress(model: AsyncModel) -> None:
    def stop(progress: BatchProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await anext(model.generate_many(SLOW, on_progress=stop))


async def _break_from_for(model: AsyncModel) -> None:
    async for result in model.generate_many(SLOW):
        assert result.index == 2
        break


async def _close(model: AsyncModel) -> None:
    results = cast("AsyncBatchResults", model.generate_many(SLOW))
    await anext(results)
    await results.aclose()
    assert [result async for result in results] == []


async def _cancel_the_task(model: AsyncModel) -> None:
    got = asyncio.Event()

    async def read() -> None:
        async for _ in model.generate_many(SLOW):
            got.set()

    task = asyncio.create_task(read())
    await got.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [_raise_in_input, _raise_in_progress, _break_from_for, _close, _cancel_the_task])
def test_however_one_leaves_what_is_under_way_is_cancelled(leave: Callable[[AsyncModel], Awaitable[None]]) -> None:
    """At once, and without the garbage collector's help."""

    async def main() -> None:
        model, hand = echo()
        await leave(model)
        assert hand.cancelled == [0, 1]

    gc.disable()
    try:
        run(main())
    finally:
        gc.enable()


def test_cancelling_ends_an_async_input() -> None:
    """The input that was waited for is cancelled with the batch."""

    async def main() -> None:
        model, hand = echo()
        ended = asyncio.Event()

        async def prompts() -> AsyncIterator[str]:
            yield "slow"
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        results = model.generate_many(prompts())
        task = asyncio.ensure_future(anext(results))
        while not hand.requests:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ended.wait()
        assert hand.cancelled == [0]

    run(main())


def test_dropping_the_iterator_ends_an_async_input() -> None:
    """Also when the loop is left while the next prompt is fetched."""

    async def main() -> None:
        model, _ = echo()
        ended = asyncio.Event()

        async def prompts() -> AsyncIterator[str]:
            yield "quick"
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async for _ in model.generate_many(prompts()):
            break
        await ended.wait()

    run(main())


def test_an_iterator_may_outlive_its_event_loop() -> None:
    """Dropped afterwards, it frees the model all the same."""
    model, hand = echo()

    async def main() -> AsyncIterator[BatchResult]:
        results = model.generate_many(later(SLOW))
        await anext(results)
        return results

    results = run(main())
    del results
    assert hand.cancelled == [0, 1]


def test_closing_the_model_ends_the_batch() -> None:
    """What is under way fails with ClosedError, which is raised if there is more."""

    async def main() -> None:
        model, hand = echo(window=2)
        results = model.generate_many(["slow", "quick", "slow", "slow"])
        assert (await anext(results)).index == 1
        await model.close()
        hand.end(CANCELLED, request=0)
        failed: list[BatchResult] = []
        with pytest.raises(ClosedError):
            async for result in results:
                failed.append(result)  # noqa: PERF401  # those before the exception are wanted
        assert {type(result.error) for result in failed} == {ClosedError}
        assert {result.index for result in failed} == {0, 2}

    run(main())


def test_a_full_queue_is_waited_for() -> None:
    """The task sleeps until the prompt may be sent again; the event loop goes on."""

    async def main() -> None:
        async with AsyncModelManager(FakeBackend([QueueFullError("full"), "a", "b"])) as models:
            model = await models.load("fake")
            results = [result async for result in model.generate_many(["x", "y"])]
            assert {result.reply and result.reply.text for result in results} == {"a", "b"}

    run(main())


def test_chats_go_on_beside_a_batch() -> None:
    """A session of the same model is answered while a batch of 200 runs."""

    async def main() -> None:
        async with AsyncModelManager(FakeBackend(itertools.repeat("ok"))) as models:
            model = await models.load("fake", config=ModelConfig(n_parallel=4))
            results = model.generate_many("x" for _ in range(200))
            done = 0
            async for _ in results:
                done += 1
                if done == 10:
                    assert (await AsyncChatSession(model).send("Hi")).text == "ok"
            assert done == 200

    run(main())

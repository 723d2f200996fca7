"""What `Model.generate_many` returns: the results of a batch, as they come. The logic is the batch's."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sized
from typing import Final, Literal, Self

from localllm.batch import Batch, BatchCallback, BatchItem, BatchItems, BatchResult
from localllm.errors import InvalidOptionError, PromptTypeError
from localllm.models.info import ModelInfo
from localllm.options import RequestOptions
from localllm.pump import PENDING, Pending, ThreadPump
from localllm.stages import Submit
from localllm.types import Message, Prompt

DEFAULT_WINDOW = 8
"""Prompts under way at once where the backend does not tell how many it answers at once: a guess."""


class End:
    """What a source of items gives at its end."""


END: Final = End()


class BatchResults:
    """The results of a batch, as an iterator; dropping it, `close` and any exception cancel what is under way.

    Args:
        items: The prompts.
        batch: Answers them.
        pump: What the batch wakes.
    """

    def __init__(self, items: BatchItems, batch: Batch, pump: ThreadPump) -> None:
        self._batch = batch
        self._pump = pump
        self._items: Iterator[Prompt | BatchItem] = iter(items)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchResult:
        """Wait for the next result.

        Raises:
            StopIteration: There are no more.
            ClosedError: The model was closed, and there are more prompts.
            BaseException: What the input or `on_progress` raised, or Ctrl-C; nothing is under way any more.
        """
        try:
            result = self._pump.run(self._step, self._batch.retry_in_s)
        except BaseException:
            self.close()
            raise
        if result is None:
            raise StopIteration
        return result

    def close(self) -> None:
        """Cancel what is under way and give no more results; from any thread. May be called twice."""
        self._batch.close()
        self._items = iter(())  # a generator cleans up

    def __del__(self) -> None:
        self._batch.drop()

    def _step(self) -> BatchResult | Literal[Pending.PENDING] | None:
        # One item even if there is a result already, so that the batch is full while the caller looks at that; no
        # more than one, since the input may be slow.
        self._pull()
        while (result := self._batch.next_result()) is PENDING and self._batch.hungry:
            self._pull()
        return result

    def _pull(self) -> None:
        if self._batch.hungry:
            item = next(self._items, END)
            if isinstance(item, End):
                self._batch.exhaust()
            else:
                self._batch.add(item)


def batch_of(
    items: object,
    submit: Submit,
    info: ModelInfo,
    wake: Callable[[], None],
    *,
    ordered: bool,
    on_progress: BatchCallback | None,
    options: Mapping[str, object],
) -> Batch:
    """Return the batch that is to answer `items`.

    Args:
        items: The prompts, to be checked here and pulled elsewhere.
        submit: Sends a request to the model.
        info: The model's facts.
        wake: Lets the consumer step again; takes no lock.
        ordered: Give the results in the input's order.
        on_progress: Told how far it is.
        options: Of every reply.

    Raises:
        PromptTypeError: The items are one prompt, or none at all.
        InvalidOptionError: An option is out of range; UnknownOptionError if there is none of this name.
    """
    given: object = ordered  # what users pass may be anything
    if not isinstance(given, bool):
        raise InvalidOptionError(f"ordered must be True or False; got {given!r:.80}")
    if on_progress is not None and not callable(on_progress):
        raise InvalidOptionError(f"on_progress must be a function or None; got {on_progress!r:.80}")
    checked = RequestOptions.of(options)
    return Batch(
        submit,
        checked,
        window=window_of(info, checked),
        wake=wake,
        ordered=ordered,
        total=total_of(items),
        on_progress=on_progress,
    )


def window_of(info: ModelInfo, options: RequestOptions) -> int:
    """Return how many prompts to have under way: those that run at once, and a few to follow, if its queue has room."""
    if info.n_parallel == 0:
        return DEFAULT_WINDOW
    if options.timeout_s is not None:  # the wait in the queue counts, so nothing should wait there
        return 1 if options.deterministic else info.n_parallel
    # Waiting ones take the places of those that end while the consumer is busy. A chat that comes meanwhile waits
    # behind them, so they are few.
    return info.n_parallel + min(max(2, info.n_parallel // 2), info.max_queue)


def total_of(items: object) -> int | None:
    """Return how many items there are, if they tell.

    Raises:
        PromptTypeError: They are one prompt, or none at all.
    """
    kind = type(items).__name__
    if isinstance(items, (str, bytes, bytearray, Message, BatchItem)) or not isinstance(
        items, (Iterable, AsyncIterable)
    ):
        raise PromptTypeError(f"generate_many takes an iterable of prompts, such as a list; it was given one {kind}")
    if isinstance(items, Mapping):
        raise PromptTypeError(
            f"generate_many was given a {kind}; for a mapping of keys to prompts, give "
            "(BatchItem(key, prompt) for key, prompt in mapping.items())"
        )
    return len(items) if isinstance(items, Sized) else None

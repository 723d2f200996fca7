"""Many prompts through one model: the core of `Model.generate_many`, which the plain and the async iterator share.

A batch neither waits nor pulls: it says when it is `hungry`, is given items, and steps to the next result. Each item is
a turn of its own, as in a session with no history.

Backends tell a turn's end on their threads; that is all they do here (`_told`): an append to a deque, and a wake-up.
Everything else happens in the consumer's thread.
"""

from __future__ import annotations

import logging
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, TypeAlias

from attrs import Attribute, define, field, frozen

from localllm.backends.base import GenerateRequest
from localllm.chat.history import History
from localllm.errors import (
    ClosedError,
    InvalidPromptError,
    LocalLLMError,
    PromptTypeError,
    QueueFullError,
)
from localllm.options import RequestOptions
from localllm.outcome import plain
from localllm.pump import PENDING, Pending
from localllm.stages import OneReply, Submit, asking
from localllm.turn import Turn
from localllm.types import Message, Prompt, Reply

REORDER = 3
"""Prompts pulled ahead at most with `ordered`, in windows. A reply that takes three times as long as those after it
leaves the batch full; one that takes longer lets it run low (a guess at what is worth the memory)."""

FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
"""Seconds until a prompt that found the model's queue full is sent again: doubled each time, up to the second. A guess;
where a reply of this batch ends meanwhile, one prompt follows it at once."""

_log = logging.getLogger("localllm.batch")


def _check_key(instance: object, attribute: Attribute[str], value: object) -> None:
    if not isinstance(value, str):
        raise PromptTypeError(f"a BatchItem's key must be a str, not {type(value).__name__}: {value!r:.80}")


@frozen
class BatchItem:
    """A prompt with a name of its own.

    Args:
        key: Names its result, so that a job can be taken up again. Whether keys are unique is not checked: a million of
            them would have to be kept.
        prompt: As for `ChatSession.send`; a sequence may begin with a system message. Checked when its turn comes, so
            that a bad one is one failed result.

    Raises:
        PromptTypeError: The key is no str.
    """

    key: str = field(validator=_check_key)
    prompt: Prompt


@frozen
class BatchResult:
    """What became of one prompt: a reply, or else an error.

    Args:
        key: The item's key; of a plain prompt its index, as a str.
        index: Its place in the input, from 0.
        reply: The whole reply, or None if it failed.
        error: What failed, or None; its `.reply` is the partial reply, if there was one.
    """

    key: str
    index: int
    reply: Reply | None
    error: LocalLLMError | None


@frozen
class BatchProgress:
    """How far a batch is.

    Args:
        done: Results so far, failed ones included.
        failed: Those of them that have an error.
        total: Prompts in all; None if the input does not tell (it has no `len`).
        tokens: Tokens generated for the results so far.
        tokens_per_s: These by the seconds since the first prompt was pulled; 0 while unknown.
    """

    done: int
    failed: int
    total: int | None
    tokens: int
    tokens_per_s: float


BatchItems: TypeAlias = Iterable[Prompt | BatchItem]
"""What `Model.generate_many` takes."""

BatchCallback: TypeAlias = Callable[[BatchProgress], object]
"""Told how far a batch is, before each result is handed out; what it returns is ignored."""


@define(eq=False)
class _Slot:
    """An item from its pulling to its result.

    Args:
        key: The item's key.
        index: Its place in the input.
        request: What is asked, kept to be asked again.
        turn: The reply on its way; None while it is not, which also breaks the circle of turn and slot.
        told: Whether its end was told.
    """

    key: str
    index: int
    request: GenerateRequest
    turn: Turn | None = None
    told: bool = False


class Batch:
    """The state of a batch. Used by one thread at a time, but for `close` and `drop`.

    Args:
        submit: Sends a request.
        options: Of every reply.
        window: Prompts under way at most.
        wake: Lets the consumer step again; takes no lock.
        ordered: Give the results in the input's order.
        total: Prompts in all, if known.
        on_progress: Told how far it is, before each result.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        submit: Submit,
        options: RequestOptions,
        *,
        window: int,
        wake: Callable[[], None],
        ordered: bool = False,
        total: int | None = None,
        on_progress: BatchCallback | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._submit = submit
        self._options = options
        self._window = window
        self._room = window * REORDER if ordered else window
        self._wake = wake
        self._ordered = ordered
        self._total = total
        self._on_progress = on_progress
        self._now = now
        self._started_s: float | None = None
        self._pulled = self._given = self._failed = self._tokens = 0
        self._exhausted = self._closed = self._model_closed = False
        self._under_way: dict[int, _Slot] = {}
        self._ended: deque[_Slot] = deque()  # filled by backends
        self._ready: dict[int, BatchResult] = {}  # by index, in the order in which they came
        self._refused: list[_Slot] = []  # the model's queue was full; by index
        self._delay_s = FIRST_RETRY_S
        self._retry_s = 0.0  # when to send the refused ones again

    @property
    def hungry(self) -> bool:
        """Whether the next item should be added now, or the input's end told."""
        if self._exhausted or self._closed or self._refused:
            return False
        if self._model_closed:  # once all results are given: to know whether there is more
            return self._given == self._pulled
        return len(self._under_way) < self._window and self._pulled - self._given < self._room

    @property
    def progress(self) -> BatchProgress:
        """How far it is."""
        elapsed_s = 0.0 if self._started_s is None else self._now() - self._started_s
        rate = self._tokens / elapsed_s if elapsed_s > 0 else 0.0
        return BatchProgress(self._given, self._failed, self._total, self._tokens, rate)

    def add(self, item: Prompt | BatchItem) -> None:
        """Take the next item and send it; one that cannot be used becomes a failed result.

        Raises:
            ClosedError: The model is closed, and all that was added before has its result.
        """
        if self._model_closed:
            raise ClosedError(f"the model was closed; {self._given} prompts have a result, and there are more of them")
        if self._started_s is None:
            self._started_s = self._now()
        index = self._pulled
        self._pulled += 1
        key, prompt = (item.key, item.prompt) if isinstance(item, BatchItem) else (str(index), item)
        try:
            messages = _messages(prompt)
        except LocalLLMError as exc:
            self._ready[index] = BatchResult(key, index, None, exc.with_traceback(None))
        else:
            self._send(_Slot(key, index, GenerateRequest(messages=messages, options=self._options)))

    def exhaust(self) -> None:
        """Know that there are no more items."""
        self._exhausted = True

    def next_result(self) -> BatchResult | Literal[Pending.PENDING] | None:
        """Step to the next result; None after the last one, and once closed.

        Raises:
            BaseException: What `on_progress` raised.
        """
        self._take_in()
        if self._closed:
            return None
        index = self._given if self._ordered else next(iter(self._ready), None)
        result = None if index is None else self._ready.pop(index, None)
        if result is None:
            return None if self._exhausted and self._given == self._pulled else PENDING
        reply = result.reply if result.error is None else result.error.reply
        self._given += 1
        self._failed += result.error is not None
        self._tokens += 0 if reply is None else reply.usage.completion_tokens
        if self._on_progress is not None:
            self._on_progress(self.progress)
        return result

    def retry_in_s(self) -> float | None:
        """Return the seconds after which to step even if nothing happens; None if there is no need to."""
        return max(0.0, self._retry_s - self._now()) if self._refused else None

    def close(self) -> None:
        """Cancel all that is under way and forget the rest; from any thread."""
        self._closed = True  # before the look at what is under way: see `_send`
        for slot in list(self._under_way.values()):
            if (turn := slot.turn) is not None:
                turn.cancel()
        self._wake()

    def drop(self) -> None:
        """Cancel all that is under way, for a finalizer: takes no lock."""
        self._closed = True
        for slot in list(self._under_way.values()):
            if slot.turn is not None:
                slot.turn.drop()

    def _send(self, slot: _Slot) -> None:
        turn = slot.turn = Turn(partial(self._told, slot))
        slot.told = False
        self._under_way[slot.index] = slot
        try:
            turn.start(asking(self._submit), OneReply(slot.request), _keep_nothing, slot.request.options.timeout_s)
        except LocalLLMError as exc:
            turn.cancel()
            del self._under_way[slot.index]
            self._fail(slot, exc)
        if self._closed:  # by another thread, which may have looked before the turn was there
            turn.cancel()

    def _told(self, slot: _Slot) -> None:
        """Note the end of a slot's turn; called for each of its events, on the backend's thread."""
        turn = slot.turn
        if turn is not None and turn.ended and not slot.told:
            slot.told = True
            self._ended.append(slot)
            self._wake()

    def _take_in(self) -> None:
        """Make results of the turns that have ended, and send refused ones again when it is time."""
        while self._ended:
            slot = self._ended.popleft()
            turn, slot.turn = slot.turn, None
            if turn is not None and self._under_way.pop(slot.index, None) is not None:
                self._settle(slot, turn)
        if self._refused and not self._closed and self._now() >= self._retry_s:
            refused, self._refused = self._refused, []
            for slot in refused:
                self._send(slot)

    def _settle(self, slot: _Slot, turn: Turn) -> None:
        try:
            reply = turn.collect()
        except QueueFullError:
            self._refuse(slot)
            return
        except LocalLLMError as exc:
            self._fail(slot, exc)
        else:
            if reply is PENDING or reply.finish_reason == "cancelled":  # not by us, who then give no more results
                partial_reply = None if reply is PENDING else plain(reply)
                self._fail(slot, ClosedError("the model was closed before this reply was whole", reply=partial_reply))
            else:
                self._ready[slot.index] = BatchResult(slot.key, slot.index, plain(reply), None)
        self._delay_s = FIRST_RETRY_S
        if self._refused and not self._closed:  # there is room for one
            self._send(self._refused.pop(0))

    def _fail(self, slot: _Slot, error: LocalLLMError) -> None:
        """Make a failed result; its traceback would keep our frames alive as long as the caller keeps the result."""
        if isinstance(error, ClosedError):
            self._model_closed = True
        self._ready[slot.index] = BatchResult(slot.key, slot.index, None, error.with_traceback(None))

    def _refuse(self, slot: _Slot) -> None:
        """Keep a prompt that found the queue full, which others have filled: it is sent again until it is taken."""
        now_s = self._now()
        if not self._refused:
            self._retry_s = now_s + self._delay_s
            _log.debug("the model's queue is full; trying again in %.2f s", self._delay_s)
            self._delay_s = min(2 * self._delay_s, LAST_RETRY_S)
        insort(self._refused, slot, key=_index)


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    """Return the conversation that a prompt is.

    Raises:
        InvalidPromptError: It cannot be used; PromptTypeError if it is of the wrong type.
    """
    try:
        return History().asked(prompt).messages
    except LocalLLMError:
        raise
    except Exception as exc:  # a sequence of the caller's own, which fails when it is read
        raise InvalidPromptError(f"the prompt cannot be read: {type(exc).__name__}: {exc}") from exc


def _keep_nothing(messages: tuple[Message, ...] | None) -> None:
    """A batch has no history."""


def _index(slot: _Slot) -> int:
    return slot.index

"""Messages on their way to the parent: in order, and merged while the pipe is slow, so that they stay few."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TypeAlias

from localllm.backends.worker.messages import EventOf, Events, Logged, ToParent
from localllm.types import BackendEvent, PromptProgress, TextDelta

MAX_PENDING = 512
"""Entries that may wait before neighbours are merged: some seconds of eight streams (a guess)."""

MAX_LOGS = 1000
"""Log records that may wait; more are counted and dropped, for a flood of them must not fill the memory."""

Entry: TypeAlias = ToParent | EventOf
"""What waits: messages, and events that a message is made of later."""


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Join each request's neighbouring deltas of one segment, and keep the latest of its neighbouring progress.

    The order within a request stays as it is, and so does that of messages.
    """
    runs: list[list[Entry]] = []
    open_runs: dict[int, list[Entry]] = {}
    for entry in entries:
        run = open_runs.get(entry.id) if isinstance(entry, EventOf) else None
        if run is not None and _joins(run[-1], entry):
            run.append(entry)
            continue
        runs.append([entry])
        if isinstance(entry, EventOf):
            open_runs[entry.id] = runs[-1]
    return [_join(run) for run in runs]


def grouped(entries: Iterable[Entry]) -> Iterator[ToParent]:
    """Yield `entries` as messages: all events that follow each other are one message, and so one frame."""
    events: list[EventOf] = []
    for entry in entries:
        if isinstance(entry, EventOf):
            events.append(entry)
            continue
        if events:
            yield Events(tuple(events))
            events = []
        yield entry
    if events:
        yield Events(tuple(events))


def _joins(first: Entry, second: Entry) -> bool:
    if not isinstance(first, EventOf) or not isinstance(second, EventOf):
        return False
    if isinstance(first.event, TextDelta) and isinstance(second.event, TextDelta):
        return first.event.segment == second.event.segment
    return isinstance(first.event, PromptProgress) and isinstance(second.event, PromptProgress)


def _join(run: list[Entry]) -> Entry:
    last = run[-1]
    if len(run) == 1 or not isinstance(last, EventOf) or not isinstance(last.event, TextDelta):
        return last
    deltas = [entry.event for entry in run if isinstance(entry, EventOf) and isinstance(entry.event, TextDelta)]
    text = "".join([delta.text for delta in deltas])
    tokens = tuple([token for delta in deltas for token in delta.token_ids])
    logprobs = tuple([logprob for delta in deltas for logprob in delta.logprobs])
    return EventOf(last.id, TextDelta(text, last.event.segment, tokens, logprobs))


class Outbox:
    """Keeps what is to be sent until it is taken. Producers on any thread never wait for whoever sends.

    Args:
        limit: Entries that may wait before neighbours are merged.
    """

    def __init__(self, limit: int = MAX_PENDING) -> None:
        self._least = self._limit = limit
        self._lock = threading.RLock()  # a finalizer in the middle of a `put` may log something
        self._entries: list[Entry] = []
        self._calls: SimpleQueue[None] = SimpleQueue()  # one, or a few, when there is something to take
        self._sender: int | None = None  # the thread that sends what it puts in
        self._logs = 0
        self._dropped_logs = 0
        self._closed = False
        self.marks: int = 0
        """Events put in so far."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._entries

    def put(self, message: ToParent) -> None:
        """Send `message`."""
        with self._lock:
            self._entries.append(message)
        self.wake()

    def put_event(self, request: int, event: BackendEvent) -> None:
        """Send an event of a request."""
        with self._lock:
            self.marks += 1
            self._entries.append(EventOf(request, event))
            if len(self._entries) > self._limit:
                self._entries = merged(self._entries)
                # Segments that take turns cannot be merged; without this, each further event would try again.
                self._limit = max(self._least, 2 * len(self._entries))
        if threading.get_ident() != self._sender:
            self.wake()

    def put_log(self, record: Logged) -> None:
        """Send a log record, unless too many wait already."""
        with self._lock:
            if self._logs >= MAX_LOGS:
                self._dropped_logs += 1
                return
            self._logs += 1
            self._entries.append(record)
        self.wake()

    def leave_to_this_thread(self) -> None:
        """The calling thread takes the events that it puts in from now on, so that nobody need be woken for them."""
        self._sender = threading.get_ident()

    def wake(self) -> None:
        """Let whoever waits take what there is."""
        if self._calls.empty():  # else a call is on its way, and finds this, too
            self._calls.put(None)

    def wait(self) -> bool:
        """Wait until there may be something to take; False once it is closed: then that is the rest."""
        self._calls.get()
        return not self._closed

    def take(self) -> list[ToParent]:
        """Return all there is, as messages, without waiting."""
        with self._lock:
            entries, self._entries = self._entries, []
            self._limit = self._least
            dropped, self._dropped_logs, self._logs = self._dropped_logs, 0, 0
        if dropped:
            text = f"{dropped} log records of the worker were dropped: they came faster than they could be sent"
            entries.append(Logged(logger="localllm.worker", level=30, text=text))
        return list(grouped(entries))

    def close(self) -> None:
        """Let the writer go once it has taken everything."""
        self._closed = True
        self._calls.put(None)

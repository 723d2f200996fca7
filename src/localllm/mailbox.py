"""A stage's events, on their way from the backend's thread to whoever consumes them.

Nothing here takes a lock. A finalizer may run in the middle of anything, cancel a request, and so make a backend put
an event into a mailbox, even into the one whose `put` it interrupted. The operations of a deque are atomic, and one
producer at a time and one consumer need nothing more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from localllm.stages import STAGE_ENDS, StageEnd, StageEvent
from localllm.types import PromptProgress, TextDelta, ToolCallDelta

MAX_PENDING = 256
"""Events that may wait for a slow consumer before neighbours are merged: some seconds of text (a guess)."""


def merged(events: Iterable[StageEvent]) -> list[StageEvent]:
    """Join neighbouring deltas of one segment and keep the latest of neighbouring progress: same text, same order."""
    runs: list[list[StageEvent]] = []
    for event in events:
        if runs and _joins(runs[-1][-1], event):
            runs[-1].append(event)
        else:
            runs.append([event])
    return [_join(run) for run in runs]


def _joins(first: StageEvent, second: StageEvent) -> bool:
    if isinstance(first, TextDelta) and isinstance(second, TextDelta):
        return first.segment == second.segment
    if isinstance(first, ToolCallDelta) and isinstance(second, ToolCallDelta):
        return first.index == second.index
    return isinstance(first, PromptProgress) and isinstance(second, PromptProgress)


def _join(run: list[StageEvent]) -> StageEvent:
    last = run[-1]
    if len(run) > 1 and isinstance(last, TextDelta):
        deltas = [event for event in run if isinstance(event, TextDelta)]
        logprobs = tuple([logprob for delta in deltas for logprob in delta.logprobs])
        return TextDelta("".join([delta.text for delta in deltas]), last.segment, logprobs=logprobs)
    if len(run) > 1 and isinstance(last, ToolCallDelta):
        pieces = [event.arguments for event in run if isinstance(event, ToolCallDelta)]
        return ToolCallDelta(last.index, "".join(pieces))
    return last


class Mailbox:
    """Keeps one stage's events until they are taken.

    Args:
        wake: Called after an event was put in, on the backend's thread; must return at once and take no lock.
    """

    __slots__ = ("_discarding", "_events", "_limit", "_wake", "ended")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._events: deque[StageEvent] = deque()
        self._limit = MAX_PENDING
        self._discarding = False
        self.ended: StageEnd | None = None
        """The stage's last event, from the moment it was put in."""

    def put(self, event: StageEvent) -> None:
        """Keep `event`: this is the sink of a stage. What follows the last event is ignored."""
        if self.ended is not None:
            return
        if isinstance(event, STAGE_ENDS):
            self.ended = event
        elif self._discarding:
            return
        self._events.append(event)
        if len(self._events) > self._limit:
            self._merge()
        self._wake()

    def take(self) -> StageEvent | None:
        """Return the oldest event, or None if there is none now."""
        try:
            return self._events.popleft()
        except IndexError:
            return None

    def discard(self) -> None:
        """Forget what is pending, and from now on keep nothing but the last event, in `ended`."""
        self._discarding = True
        self._events.clear()

    def _merge(self) -> None:
        """Make room. What the consumer takes meanwhile is the oldest, so the order holds whoever is faster."""
        events: list[StageEvent] = []
        while True:
            try:
                events.append(self._events.pop())
            except IndexError:
                break
        kept = merged(reversed(events))
        self._events.extend(kept)
        # Segments that take turns cannot be merged; without this, each further event would try again.
        self._limit = max(MAX_PENDING, 2 * len(kept))

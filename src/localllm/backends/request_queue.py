"""The queue of a simple model: requests come from any thread and are answered on one, first come first served.

The thread ends when there was nothing to do for a while, so that a model that is forgotten without `close` leaves
nothing behind. What is due is done in the order of its time, not in the order in which the
thread happens to notice: with a clock moved by hand, a test gets the same events in every run.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from localllm.backends.clock import Bell, Clock
from localllm.errors import ClosedError, LocalLLMError, QueueFullError
from localllm.types import FinishReason

_LINGER_S = 1.0  # a guess: longer than the pause between two requests of a test, shorter than anybody minds


class Queued(Protocol):
    """A request as the queue knows it: `start`, then a `step` whenever it is due, until it has `ended`.

    One in the `background` starts when nobody else waits, and takes no place from those who come later.
    """

    accepted: bool
    background: bool
    ended: bool
    deadline_s: float
    due_s: float

    def start(self) -> None:
        """Begin."""

    def step(self) -> None:
        """Do what is due."""

    def end(self, reason: FinishReason, error: LocalLLMError | None = None) -> None:
        """End; a second call does nothing."""


_R = TypeVar("_R", bound=Queued)


class RequestQueue(Generic[_R]):
    """Runs requests on a thread of its own.

    Args:
        clock: Tells when requests time out and pauses end.
        name: The thread's name.
        n_parallel: Requests that are answered at once, piece by piece in turn.
        max_queue: Requests that may wait for that; one more ends with QueueFullError.
        on_closed: Called once `close` was, and the last request has ended; perhaps more than once.
    """

    def __init__(
        self, clock: Clock, *, name: str, n_parallel: int, max_queue: int, on_closed: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._on_closed = on_closed
        self._name = name
        self._n_parallel = n_parallel
        self._max_queue = max_queue
        self._bell = Bell()
        self._lock = threading.Lock()  # guards the next four; never taken by `cancel`
        self._closed = False
        self._under_way = 0  # accepted and not ended
        self._working = False
        self._thread: threading.Thread | None = None
        self._arrivals: SimpleQueue[_R] = SimpleQueue()
        self._cancels: SimpleQueue[_R] = SimpleQueue()
        # The rest belongs to the thread.
        self._waiting: deque[_R] = deque()
        self._running: list[_R] = []
        self._deadlines: list[tuple[float, int, _R]] = []
        self._count = itertools.count()

    @property
    def running(self) -> int:
        """Requests being answered now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return max(0, self._under_way - len(self._running))

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def submit(self, make: Callable[[bool], _R]) -> _R:
        """Take a request; returns at once.

        Args:
            make: Makes it, told whether it is accepted; called in the order in which requests arrive.

        Raises:
            ClosedError: The queue is closed.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the model is closed; load it again")
            accepted = self._under_way < self._n_parallel + self._max_queue
            request = make(accepted)
            self._under_way += accepted
            self._arrivals.put(request)
            self._bell.ring()  # still under the lock: it must not come after the request has ended, see `_linger`
            if not self._working:
                self._working = True
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
        return request

    def cancel(self, request: _R) -> None:
        """End `request` soon; it may not have arrived yet. Takes no lock."""
        self._cancels.put(request)
        self._bell.ring()

    def retire(self, request: _R) -> None:
        """Forget `request`, which has ended; on the thread only."""
        if request in self._running:
            self._running.remove(request)
        if request.accepted:
            with self._lock:
                self._under_way -= 1

    def end_all(self, make_error: Callable[[], LocalLLMError] | None = None) -> None:
        """End all requests under way as cancelled, or each with an error of its own; on the thread only."""
        self._take_in()
        for request in [*self._running, *self._waiting]:
            if make_error is None:
                request.end("cancelled")
            else:
                request.end("error", make_error())

    def close(self) -> None:
        """End all requests as cancelled and wait for the thread, unless called on it; a second call only waits."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._bell.ring()
        if thread is not threading.current_thread():
            if thread is not None:
                thread.join()
            self._on_closed()

    def _run(self) -> None:
        while self._has_work() or self._linger():
            self._take_in()
            if self._closed:
                self.end_all()
            else:
                self._admit()
                self._do_next()
        if self._closed:
            self._on_closed()

    def _has_work(self) -> bool:
        return self._under_way > 0 or not self._arrivals.empty()

    def _linger(self) -> bool:
        """Wait for more work; return False if the thread is to end."""
        self._waiting.clear()  # what is left there has ended
        self._deadlines.clear()
        self._bell.wait(0)  # forgets rings for what is done already
        if not self._closed and not self._has_work():
            self._bell.wait(_LINGER_S)
        with self._lock:  # so that no request can arrive unseen
            self._working = self._has_work()
            return self._working

    def _take_in(self) -> None:
        """Receive what other threads sent. A cancel may overtake its request, which then arrives ended."""
        for request in _drain(self._arrivals):
            if not request.accepted:
                request.end("error", self._full())
            elif not request.ended:
                self._line_up(request)
                if request.deadline_s < math.inf:
                    heapq.heappush(self._deadlines, (request.deadline_s, next(self._count), request))
        for request in _drain(self._cancels):
            request.end("cancelled")

    def _admit(self) -> None:
        """Start waiting requests while there is room."""
        while self._waiting and self._has_room(self._waiting[0]):
            request = self._waiting.popleft()
            if request.deadline_s <= self._clock.now():
                request.end("timeout")
            if not request.ended:
                self._running.append(request)
                request.start()

    def _line_up(self, request: _R) -> None:
        place = len(self._waiting)
        while not request.background and place and self._waiting[place - 1].background:
            place -= 1
        self._waiting.insert(place, request)

    def _has_room(self, request: _R) -> bool:
        taken = sum(request.background or not other.background for other in self._running)
        return taken < self._n_parallel

    def _do_next(self) -> None:
        """Do what is due first, a time-out or a step; wait if nothing is due yet."""
        timed = self._next_deadline()
        ready = min(self._running, key=_due, default=None)
        deadline_s = math.inf if timed is None else timed.deadline_s
        due_s = math.inf if ready is None else ready.due_s
        if min(deadline_s, due_s) > self._clock.now():
            if self._under_way:
                self._clock.wait(self._bell, min(deadline_s, due_s))
        elif timed is not None and deadline_s <= due_s:
            timed.end("timeout")
        elif ready is not None:
            ready.step()
            if not ready.ended:  # to the end of the line: `min` takes the first of those that are due at one time
                self._running.remove(ready)
                self._running.append(ready)

    def _next_deadline(self) -> _R | None:
        """Return the request that times out first."""
        if len(self._deadlines) > 64 + 2 * self._under_way:  # mostly ended requests with time left: let them go
            self._deadlines = [entry for entry in self._deadlines if not entry[2].ended]
            heapq.heapify(self._deadlines)
        while self._deadlines and self._deadlines[0][2].ended:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][2] if self._deadlines else None

    def _full(self) -> QueueFullError:
        return QueueFullError(
            f"as many requests as may are under way: {self._n_parallel} running and {self._max_queue} waiting; "
            "wait for one to end, or raise ModelConfig(max_queue=...)"
        )


def _due(request: Queued) -> float:
    return request.due_s


def _drain(mail: SimpleQueue[_R]) -> Iterator[_R]:
    with suppress(Empty):
        while True:
            yield mail.get_nowait()

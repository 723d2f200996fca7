"""Keeps a model's worker going: sends requests to it, watches it, starts it again.

One thread makes all decisions, from commands that others leave in its inbox. Events do not pass through it: the reader
of a link hands them to their requests. Who may push to a request's sink is therefore settled by `ActiveRequest.link`:
the reader of that link, and the supervisor only when there is none, which it is told by the reader's last call.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias, assert_never

from localllm.backends.base import GenerateRequest, Sink
from localllm.backends.lookup import OnCrash
from localllm.backends.worker.commands import Command, Down, Gone, Look, Stop, Up
from localllm.backends.worker.deadlines import overdue, tick_s
from localllm.backends.worker.info import WorkerInfo, WorkerState
from localllm.backends.worker.link import Link
from localllm.backends.worker.messages import Cancel, Finding, Generate, Question
from localllm.backends.worker.obituary import given_up, own_copy
from localllm.backends.worker.process import interpreter_exits
from localllm.backends.worker.request import ActiveRequest, Handle
from localllm.backends.worker.restarts import COOL_DOWN_S, Restarts
from localllm.backends.worker.starter import Starter
from localllm.backends.worker.trials import Trials
from localllm.engine.stats import ModelStats
from localllm.errors import ClosedError, ForkedError, LocalLLMError, WorkerCrashedError
from localllm.options import Timeouts
from localllm.types import BackendEvent, TextDelta

_log = logging.getLogger("localllm.worker")

_Waiter: TypeAlias = "SimpleQueue[Link | LocalLLMError]"


class Supervisor:
    """The requests of one model, and the worker that answers them.

    Args:
        link: The worker, with the model loaded.
        name: The model's name, for people.
        make: Starts another process for the same model.
        bring_up: Makes that process load the model; blocks.
        timeouts: How long what may take.
        on_crash: What becomes of the replies that a crash interrupts.
    """

    def __init__(
        self,
        link: Link,
        name: str,
        make: Callable[[], Link],
        bring_up: Callable[[Link], object],
        timeouts: Timeouts,
        on_crash: OnCrash,
    ) -> None:
        self._name = name
        self._starter = Starter(make, bring_up, self._came)
        self._timeouts = timeouts
        self._on_crash: OnCrash = on_crash
        self._pid = os.getpid()
        self._tick_s = tick_s(timeouts, link.tick_s)
        self._lock = threading.Lock()  # guards what follows; no sink and nothing that waits is called under it
        self._link: Link | None = link
        self._requests: dict[int, ActiveRequest] = {}
        self._waiters: list[_Waiter] = []
        self._closed = False
        # The rest is the thread's own.
        self._bringing_up = False
        self._restarts = Restarts()
        self._trials = Trials()
        self._restart_at_s = 0.0
        self._last_crash: LocalLLMError | None = None
        # Written by readers: a flag and a time, each by itself.
        self._token_came = False
        self._sign_s = 0.0
        self._numbers = itertools.count(1)
        self._inbox: SimpleQueue[Command] = SimpleQueue()
        self._done = threading.Event()
        self.on_restart: Callable[[], object] | None = None
        """Called when another worker has taken over, on the supervisor's thread; returns at once."""
        self.last_stats: ModelStats = ModelStats()
        """The model's figures when it was closed."""
        self._thread = threading.Thread(target=self._run, name="localllm-worker-watch", daemon=True)
        self._thread.start()
        link.listen(self)

    def submit(self, request: GenerateRequest, sink: Sink) -> Handle:
        """Take a request; returns at once.

        Raises:
            ClosedError: The model is closed.
        """
        with self._lock:
            self._check_open()
            active = ActiveRequest(next(self._numbers), request, sink, resumes=self._on_crash == "resume")
            self._requests[active.id] = active
            if self._link is not None and self._trials.alone is None:
                self._link.post(Generate(active.id, active.send(self._link)))
            else:
                self._wake()
        return Handle(active, self._wake)

    def ask(self, question: Question) -> Finding:
        """Ask the model, and wait for the answer; starts the worker if there is none.

        Raises:
            ClosedError: The model is closed.
            LocalLLMError: What the model raised, or why there is no worker.
        """
        try:
            return self._ready().ask(question)
        except WorkerCrashedError:
            # The worker may have been gone before the question; and if not, a question can be asked again.
            return self._ready().ask(question)

    @property
    def running(self) -> Link | None:
        """The worker, if there is one, and it is this process's."""
        return self._link if os.getpid() == self._pid else None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def info(self) -> WorkerInfo:
        """Return what there is to see of the worker."""
        with self._lock:
            coming = self._starter.coming
            link = self._link or coming
            waiting = len(self._requests)
        state: WorkerState = "busy" if waiting else "ready"
        if self._closed:
            state = "closed"
        elif link is None:
            state = "down"
        elif link is coming:
            state = "restarting"
        return WorkerInfo(
            pid=None if link is None else link.pid,
            state=state,
            models=(self._name,),
            uptime_s=0.0 if link is None else time.monotonic() - link.began_s,
            restarts=self._restarts.total,
            memory_bytes=0 if link is None else link.beat.memory_bytes,
            running=waiting,
        )

    def close(self) -> None:
        """End all requests as cancelled and the worker with them; waits, unless called from one of its own threads."""
        if os.getpid() != self._pid:
            return  # the worker belongs to the process that this one was forked from
        with self._lock:
            first, self._closed = not self._closed, True
            link = self._link
        own = threading.current_thread() is self._thread or (link is not None and link.on_own_thread())
        if first and own:
            threading.Thread(target=self._close, args=(link,), name="localllm-worker-close", daemon=True).start()
        elif first:
            self._close(link)
        elif not own:
            self._done.wait()

    def on_accepted(self, request: int) -> None:
        """See `Listener`."""
        active = self._requests.get(request)
        if active is not None:
            active.accepted = True

    def on_event(self, request: int, event: BackendEvent) -> None:
        """See `Listener`."""
        active = self._requests.get(request)
        if active is None:
            return
        self._sign_s = time.monotonic()
        if isinstance(event, TextDelta):
            self._token_came = True
        active.receive(event)
        if active.ended:
            self._requests.pop(request, None)
        if active.suspect:
            self._wake()  # perhaps the next suspect can be tried

    def on_gone(self, link: Link) -> None:
        """See `Listener`."""
        self._inbox.put(Gone(link))

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"the model's worker belongs to the process {self._pid}, and this is {os.getpid()}, made by fork(); "
                "load the model here, or start processes with the method 'spawn'"
            )
        if self._closed:
            raise ClosedError("the model is closed; load it again")

    def _ready(self) -> Link:
        """Return the worker; wait for it if it has to be started first."""
        waiter: _Waiter = SimpleQueue()
        with self._lock:
            self._check_open()
            if self._link is not None and self._link.gone is None:
                return self._link
            self._waiters.append(waiter)
            self._inbox.put(Look())
        found = waiter.get()
        if isinstance(found, LocalLLMError):
            raise found
        return found

    # What follows runs on the supervisor's thread, `_close` and `_came` excepted.

    def _run(self) -> None:
        while True:
            try:
                command: Command = self._inbox.get(timeout=self._pause_s())
            except Empty:
                command = Look()
            match command:
                case Gone():
                    self._lost(command.link)
                case Up():
                    self._up(command.link)
                case Down():
                    self._down(command.error)
                case Look():
                    pass
                case Stop():
                    return
                case _:
                    assert_never(command)
            self._look(time.monotonic())

    def _pause_s(self) -> float:
        wait_s = self._restart_at_s - time.monotonic()
        return min(self._tick_s, wait_s) if wait_s > 0 else self._tick_s

    def _look(self, now_s: float) -> None:
        self._count_token()
        link = self._link
        if link is not None:
            link.look(now_s)
        for active in list(self._requests.values()):
            self._look_at(active, now_s)
        with self._lock:
            if link is not None and link is self._link and not self._closed:
                for active in self._trials.next(list(self._requests.values())):
                    self._send(active, link)
        if self._closed or self._link is not None or self._bringing_up or interpreter_exits():
            return
        if not self._requests and not self._waiters:
            return
        if now_s >= self._restart_at_s:
            self._bringing_up = True
            self._starter.begin()
        elif self._restarts.given_up:
            self._refuse_all(given_up(self._name, self._restarts.in_a_row, COOL_DOWN_S, self._last_crash))

    def _look_at(self, active: ActiveRequest, now_s: float) -> None:
        """End a request that takes too long, and a worker that does not end it."""
        link = active.link
        if link is None:
            if self._closed:
                return
            if active.cancelled:
                self._end(active, "cancelled")
            elif active.out_of_time(now_s):
                self._end(active, "timeout")
            return
        if active.late is None:
            active.late = overdue(active.waiting(self._sign_s), self._timeouts, now_s)
            active.late_s = now_s
            if active.late is not None:
                link.post(Cancel(active.id))
        elif now_s - active.late_s > self._timeouts.close_s:
            link.kill(
                WorkerCrashedError(
                    f"the worker (pid {link.pid}) was ended: it did not stop a request that ran out of time within "
                    f"Timeouts.close_s={self._timeouts.close_s:g} s. {active.late}"
                )
            )

    def _lost(self, link: Link) -> None:
        """The worker has ended, and nothing more will come from it."""
        with self._lock:
            if link is not self._link:
                return
            self._link = None
            mine = [active for active in list(self._requests.values()) if active.link is link]
        if self._closed or link.gone is None or interpreter_exits():
            return
        self._last_crash = link.gone
        self._count_token()
        self._back_off()
        _log.warning("a worker ended; %s is loaded again on its next use (crash %d)", self._name, self._restarts.total)
        for active in mine:
            self._bereave(active, link.gone)
        self._trials.over()

    def _bereave(self, active: ActiveRequest, crash: LocalLLMError) -> None:
        """Decide what becomes of a request whose worker has ended."""
        active.link = None
        if active.cancelled:
            self._end(active, "cancelled")
        elif active.late is not None:
            self._end(active, "timeout", active.late)
        elif active.unseen():
            return  # the backend never saw it: it has nothing to do with the crash, and has lost nothing
        elif self._on_crash == "raise" or not active.survives(alone=active is self._trials.alone):
            self._end(active, "error", own_copy(crash))

    def _up(self, link: Link) -> None:
        self._bringing_up = False
        with self._lock:
            if self._closed:
                return
            self._link = link
            self._starter.took_over()
            link.listen(self)
            for active in self._trials.first(list(self._requests.values())):
                self._send(active, link)
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.put(link)
        if self.on_restart is not None:
            self.on_restart()

    def _send(self, active: ActiveRequest, link: Link) -> None:
        link.post(Generate(active.id, active.send(link)))
        if active.cancelled:  # a cancel before `send` had no link to go to
            link.post(Cancel(active.id))

    def _down(self, error: LocalLLMError) -> None:
        """A start or a load has failed."""
        self._bringing_up = False
        if self._closed:
            return
        self._last_crash = error
        self._back_off()
        if not isinstance(error, WorkerCrashedError):  # not an accident: it would fail the next time, too
            self._refuse_all(error)

    def _count_token(self) -> None:
        if self._token_came:
            self._token_came = False
            self._restarts.delivered()

    def _back_off(self) -> None:
        self._restart_at_s = time.monotonic() + self._restarts.crashed()

    def _refuse_all(self, error: LocalLLMError) -> None:
        """End everything that waits for a worker."""
        with self._lock:
            pending = [active for active in self._requests.values() if active.link is None]
            waiters, self._waiters = self._waiters, []
        for active in pending:
            self._end(active, "error", own_copy(error))
        for waiter in waiters:
            waiter.put(own_copy(error))

    def _end(
        self,
        active: ActiveRequest,
        reason: Literal["cancelled", "timeout", "error"],
        error: LocalLLMError | None = None,
    ) -> None:
        active.end(reason, error)
        self._requests.pop(active.id, None)

    def _wake(self) -> None:
        self._inbox.put(Look())

    def _came(self, found: Link | LocalLLMError) -> None:
        """Pass on what the starter says; on its thread."""
        self._inbox.put(Up(found) if isinstance(found, Link) else Down(found))

    def _close(self, link: Link | None) -> None:
        """The one close that does the work."""
        self._starter.stop()
        if link is not None:
            self.last_stats = link.close() or self.last_stats
        self._inbox.put(Stop())
        self._thread.join()
        with self._lock:
            pending = list(self._requests.values())
            waiters, self._waiters = self._waiters, []
        for active in pending:
            self._end(active, "cancelled")
        for waiter in waiters:
            waiter.put(ClosedError("the model is closed; load it again"))
        self._done.set()

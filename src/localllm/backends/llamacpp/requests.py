"""Requests on their way to the engine: prepared on threads of their own, counted, cancellable.

One thread renders and tokenizes, in the order in which requests come. Where a grammar is still to be compiled, others
go on with the request, for that may take a second, in which no other request is to wait; and so with completions, of
which the first has the vocabulary sorted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from attrs import define, evolve

from localllm.backends.base import GenerateRequest, Sink
from localllm.backends.llamacpp.preparation import Prepared
from localllm.engine.constraint import Constraint
from localllm.engine.engine import Engine, EngineHandle
from localllm.engine.request import ReplyForm
from localllm.engine.stored import Stored
from localllm.errors import BackendError, ClosedError, LocalLLMError, QueueFullError
from localllm.types import BackendEvent, GenerationEnded, Timings

_log = logging.getLogger("localllm.engine")

_COMPILERS = 2
"""Threads that compile grammars, so that one that takes long holds up no other (nor do two, if others are known)."""


@define(eq=False)
class PendingRequest:
    """A request that is being prepared, then runs in the engine; the caller's handle."""

    request: GenerateRequest
    sink: Sink
    submitted_s: float
    refused: bool = False
    cancelled: bool = False
    running: EngineHandle | None = None

    def cancel(self) -> None:
        """Ask for it to end. Takes no lock: the preparing thread looks again after it has set `running`."""
        self.cancelled = True
        if self.running is not None:
            self.running.cancel()


class Compiler(Protocol):
    """Makes grammars into constraints. Safe from any thread."""

    def has(self, source: str) -> bool:
        """Whether a grammar is compiled, so that a constraint costs nothing."""

    def constraint(self, source: str, prefix: str = "") -> Constraint:
        """Return what holds a reply to a grammar; raises LocalLLMError for one that cannot be used."""

    def spelled(self, word: str) -> Constraint:
        """Return what holds a completion to begin with a word, and to end with the turn."""


class Prompts(Protocol):
    """Stored beginnings of prompts. Safe from any thread."""

    def find(self, tokens: Sequence[int]) -> Stored | None:
        """Return what is stored of a prompt."""

    def watching(self, request: GenerateRequest, tokens: Sequence[int], sink: Sink) -> Sink:
        """Return a sink for a request's events, from which is learned when its prompt can be stored."""


class RequestDesk:
    """Takes requests from any thread, prepares them one after the other, and hands them to the engine.

    Args:
        engine: Where they go.
        prepare: Prepares a request; raises LocalLLMError for one that cannot be answered.
        grammars: Compiles grammars.
        limit: Requests that may be under way at once.
        prompts: Stored prompts, or None. Deterministic requests do without.
    """

    def __init__(
        self,
        engine: Engine,
        prepare: Callable[[GenerateRequest], Prepared],
        grammars: Compiler,
        limit: int,
        prompts: Prompts | None = None,
    ) -> None:
        self._engine = engine
        self._prepare = prepare
        self._grammars = grammars
        self._compilers: ThreadPoolExecutor | None = None  # of the preparing thread's
        self._limit = limit
        self._prompts = prompts
        self._under_way = 0
        self._closed = False
        self._lock = threading.Lock()
        self._inbox: SimpleQueue[PendingRequest | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="localllm-prepare", daemon=True)
        self._thread.start()

    def submit(self, request: GenerateRequest, sink: Sink) -> PendingRequest:
        """Take a request; returns at once.

        Raises:
            ClosedError: The desk is closed.
        """
        pending = PendingRequest(request, sink, time.monotonic())
        with self._lock:
            if self._closed:
                raise ClosedError("the model is closed; load it again")
            pending.refused = self._under_way >= self._limit
            if not pending.refused:
                self._under_way += 1
                pending.sink = self._counted(sink)
            self._inbox.put(pending)
        return pending

    def close(self) -> None:
        """Take no more requests, end those that are not in the engine yet, and wait for the threads."""
        with self._lock:
            self._closed = True
            self._inbox.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            if self._compilers is not None:
                self._compilers.shutdown()

    def _counted(self, sink: Sink) -> Sink:
        def counted(event: BackendEvent) -> None:
            if isinstance(event, GenerationEnded):
                with self._lock:
                    self._under_way -= 1
            sink(event)

        return counted

    def _run(self) -> None:
        while (pending := self._inbox.get()) is not None:
            self._attend(pending, partial(self._begin, pending))

    def _attend(self, pending: PendingRequest, work: Callable[[], None]) -> None:
        """Do a part of a request's preparation; a failure is its own, and the thread lives on."""
        try:
            if pending.cancelled or self._closed:
                _end(pending, None)
            else:
                work()
        except LocalLLMError as exc:
            _end(pending, exc)
        except Exception as exc:  # noqa: BLE001  # see above
            error = BackendError(f"the prompt could not be prepared: {exc}")
            error.__cause__ = exc
            _end(pending, error)

    def _begin(self, pending: PendingRequest) -> None:
        if pending.refused:
            raise QueueFullError(
                f"{self._limit} requests are under way, as many as may run and wait; "
                "wait for some to end, or raise ModelConfig(max_queue=...)"
            )
        prepared = self._prepare(pending.request)
        if prepared.word is None and (prepared.grammar is None or self._grammars.has(prepared.grammar)):
            self._hand_over(pending, prepared)
            return
        if self._compilers is None:
            self._compilers = ThreadPoolExecutor(_COMPILERS, thread_name_prefix="localllm-grammar")
        self._compilers.submit(self._attend, pending, partial(self._hand_over, pending, prepared))

    def _hand_over(self, pending: PendingRequest, prepared: Prepared) -> None:
        constraint = None
        if prepared.grammar is not None:
            constraint = self._grammars.constraint(prepared.grammar, prepared.prefix)
        elif prepared.word is not None:
            constraint = self._grammars.spelled(prepared.word)
        if pending.cancelled or self._closed:
            _end(pending, None)
            return
        request, resume = pending.request, pending.request.resume
        sink, stored, prompts = pending.sink, None, self._prompts
        if prompts is not None and not request.options.deterministic:
            stored = prompts.find(prepared.tokens)
            sink = prompts.watching(request, prepared.tokens, sink)
        pending.running = self._engine.submit(
            prepared.tokens,
            evolve(request.options, stop=request.options.stop + prepared.stop) if prepared.stop else request.options,
            sink,
            submitted_s=pending.submitted_s,
            preload=request.purpose == "preload",
            background=request.purpose != "reply",
            given=() if resume is None else resume.token_ids,
            delivered_chars=None if resume is None else resume.delivered_chars,
            form=ReplyForm(constraint=constraint, fold=prepared.fold, markers=prepared.markers),
            stored=stored,
        )
        if pending.cancelled:  # cancel() may have come between the first look and `running`
            pending.running.cancel()


def _end(pending: PendingRequest, error: LocalLLMError | None) -> None:
    """End a request that never reached the engine."""
    waited_s = time.monotonic() - pending.submitted_s
    event = GenerationEnded("cancelled" if error is None else "error", timings=Timings(queue_s=waited_s), error=error)
    try:
        pending.sink(event)
    except Exception:  # noqa: BLE001  # a sink is somebody else's code; its request has ended anyway
        _log.exception("the sink of a request raised at its end")

"""The engine: one thread that owns a model's contexts and serves every request; the rest submits and receives."""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from queue import Empty, SimpleQueue

from attrs import frozen

from localllm.engine.budget import FixedBudget, StepBudget
from localllm.engine.cells import CellTable
from localllm.engine.host_cache import BLOCK_TOKENS
from localllm.engine.kv_cache import KvCache
from localllm.engine.lane import Lane
from localllm.engine.model import TokenModel
from localllm.engine.opening import Aside
from localllm.engine.output import Output
from localllm.engine.request import ReplyForm, Request
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Sequence
from localllm.engine.state import Job
from localllm.engine.stats import ModelStats
from localllm.engine.stored import Stored
from localllm.errors import BackendError, ClosedError
from localllm.options import RequestOptions
from localllm.types import BackendEvent

_log = logging.getLogger("localllm.engine")

DETERMINISTIC_PORTION = 64
"""Prompt tokens that a deterministic request reads in one step: a quarter of a second or less on two cores."""


@frozen(kw_only=True)
class EngineLimits:
    """How an engine is cut.

    Args:
        n_ctx: Tokens of the context window: what the context may grow to.
        n_parallel: Requests that run at once.
        n_sequences: Sequences that may be held at once, running and idle.
        n_batch: Tokens of a step at most.
        step_s: Seconds of a step while a reply is streaming.
        idle_step_s: Seconds of a step otherwise.
        cache_ram_bytes: Bytes of host memory for idle sequences.
        first_cells: Tokens of the context at first.
    """

    n_ctx: int
    n_parallel: int
    n_sequences: int
    n_batch: int
    step_s: float
    idle_step_s: float
    cache_ram_bytes: int = 0
    first_cells: int = 1024


@frozen
class Fetched:
    """What a request waited for is in host memory, or will not come.

    Args:
        request: The request, which may have ended meanwhile.
        hit: Whether it is there.
    """

    request: Request
    hit: bool


class EngineHandle:
    """A request that was submitted."""

    def __init__(self, request: Request, wake: Callable[[], None]) -> None:
        self._request = request
        self._wake = wake

    def cancel(self) -> None:
        """Ask for the request to end within a step. Safe in a finalizer: takes no lock."""
        self._request.cancelled = True
        self._wake()


def _nothing() -> None:
    """Nobody wants to know."""


class Engine:
    """Serves requests over one model.

    Args:
        model: The weights; the engine opens contexts of it and closes them, not the model.
        limits: How it is cut.
        model_hash: The model that generated tokens belong to.
        now: The clock, in seconds.
        aside: Runs the making of contexts; None for a thread each.

    Raises:
        MemoryError: There is no memory for the context.
    """

    def __init__(
        self,
        model: TokenModel,
        limits: EngineLimits,
        model_hash: str,
        now: Callable[[], float] = time.monotonic,
        *,
        aside: Aside | None = None,
    ) -> None:
        self.limits = limits
        self._model = model
        self._model_hash = model_hash
        self._now = now
        self._aside = aside or self._on_a_thread
        # Its put() is reentrant: finalizers may use it.
        self._inbox: SimpleQueue[Request | Fetched | Job | None] = SimpleQueue()
        self._budget = StepBudget(limits.step_s, limits.idle_step_s, limits.n_batch)
        self._main = self._make_main()
        self._main.open_now()
        self._deterministic: Lane | None = None
        self.on_step: Callable[[], object] = _nothing
        """Called on the engine's thread when a step's events are pushed, before it turns to what takes long."""
        self._closing = False
        self._submitting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="localllm-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt: Tokens[int],
        options: RequestOptions,
        sink: Callable[[BackendEvent], None],
        *,
        submitted_s: float | None = None,
        preload: bool = False,
        background: bool = False,
        given: Tokens[int] = (),
        delivered_chars: int | None = None,
        form: ReplyForm | None = None,
        stored: Stored | None = None,
    ) -> EngineHandle:
        """Queue a request; returns at once. Safe from any thread.

        Args:
            prompt: Its tokens: at least one, and fewer than `limits.n_ctx`.
            options: Its options.
            sink: Where its events go, on the engine's thread.
            submitted_s: When it was made, if that was before now.
            preload: Only read the prompt into the cache, in the background.
            background: Stay behind all requests that are not.
            given: What an earlier run of the request has generated and delivered; it goes on from there.
            delivered_chars: Characters of their text that were delivered; None for all of it.
            form: What the reply is held to, and how its text is read; used by this request only.
            stored: What is kept of the prompt elsewhere; brought if much of it would have to be computed. Not for
                deterministic requests.

        Raises:
            ClosedError: The engine is closed.
        """
        form = ReplyForm() if form is None else form
        start_s = self._now() if submitted_s is None else submitted_s
        room = self.limits.n_ctx - len(prompt)
        sequence = Sequence(
            array("i", prompt),
            max_new=min(options.max_tokens or room, room),
            preload=preload,
            background=preload or background,
        )
        request = Request(
            sequence,
            options,
            Output(sink, options.stop, start_s, self._model_hash, form.fold, delivered_chars),
            None if options.timeout_s is None else start_s + options.timeout_s,
            deque(given),
            form.constraint,
            form.markers,
            stored,
        )
        with self._submitting:
            if self._closing:
                raise ClosedError("the model is closed; load it again")
            self._inbox.put(request)
        return EngineHandle(request, self._wake)

    def post(self, job: Job) -> None:
        """Have something done with the cache on the engine's thread, between two steps; returns at once.

        Raises:
            ClosedError: The engine is closed.
        """
        with self._submitting:
            if self._closing:
                raise ClosedError("the model is closed; load it again")
            self._inbox.put(job)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block in host memory: states leave in such blocks, and come back in them."""
        return self._main.scheduler.cache.host.block_tokens

    def stats(self) -> ModelStats:
        """Return the figures so far. Read from any thread, so that figures may be one step apart."""
        lanes = self._lanes
        counters = [lane.counters for lane in lanes]
        steps = sum(counter.steps for counter in counters)
        caches = [lane.scheduler.cache for lane in lanes]
        table = caches[0].table
        return ModelStats(
            running=sum(len(lane.scheduler.running) for lane in lanes),
            waiting=sum(len(lane.scheduler.waiting) for lane in lanes) + self._inbox.qsize(),
            finished=sum(counter.finished for counter in counters),
            prompt_tokens=sum(counter.prompt_tokens for counter in counters),
            cached_tokens=sum(counter.cached_tokens for counter in counters),
            completion_tokens=sum(counter.completion_tokens for counter in counters),
            cache_hits=sum(lane.scheduler.cache_hits for lane in lanes),
            disk_hits=sum(counter.disk_hits for counter in counters),
            evictions=sum(cache.evictions + cache.host.evictions for cache in caches),
            preemptions=sum(lane.scheduler.preemptions for lane in lanes),
            steps=steps,
            batch_fill=sum(counter.step_tokens for counter in counters) / steps if steps else 0.0,
            cells_used=table.used,
            cells_total=table.n_cells,
            host_bytes=caches[0].host.used_bytes,
            prefill_tokens_per_s=self._budget.prefill_tokens_per_s,
        )

    def close(self) -> None:
        """End all requests as cancelled, free the contexts and wait for the thread; a second call only waits."""
        with self._submitting:
            self._closing = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _wake(self) -> None:
        self._inbox.put(None)

    def _run(self) -> None:
        """The thread: receive, sweep, step, until closed; no request's failure ends it."""
        idle = True
        while not self._closing:
            self._receive(wait=idle)
            done = [self._step(lane) for lane in self._lanes]
            idle = not any(done) and not self._copy_ahead()
        self._receive(wait=False)
        for lane in self._lanes:
            lane.close()
        self.on_step()

    def _on_a_thread(self, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            work()
            self._wake()

        thread = threading.Thread(target=run, name="localllm-context", daemon=True)
        thread.start()
        return thread.join

    @property
    def _lanes(self) -> list[Lane]:
        return [self._main] if self._deterministic is None else [self._main, self._deterministic]

    def _step(self, lane: Lane) -> bool:
        """Take a lane one step on; False if it has nothing to do until something is received."""
        try:
            lane.sweep()
            self.on_step()
            worked = lane.busy and lane.step()
            self.on_step()
            return lane.move(worked)
        except Exception as exc:  # noqa: BLE001  # a broken context or a mistake of ours: the loop must live on
            _log.warning("the context failed and is rebuilt: %s", exc, exc_info=True)
            self._rebuild(lane, exc)
            return True

    def _copy_ahead(self) -> bool:
        """While nobody asks for anything, do what the next ones would have to wait for; whether there may be more."""
        if any(lane.busy for lane in self._lanes):
            return False
        try:
            return self._main.copy_ahead()
        except Exception as exc:  # noqa: BLE001  # as in a step
            _log.warning("the context failed and is rebuilt: %s", exc, exc_info=True)
            self._rebuild(self._main, exc)
            return False

    def _rebuild(self, lane: Lane, cause: Exception) -> None:
        """Give a broken context up; the next step opens a new one. Requests that it failed for twice in a row end."""
        for request in list(lane.requests.values()):
            request.failures += 1
            if request.failures > 1:
                error = BackendError(f"the model failed twice while this reply was computed: {cause}")
                error.__cause__ = cause
                lane.finish(request, "error", error)
        lane.drop_context()

    def _receive(self, *, wait: bool) -> None:
        """Take what was submitted; sleeps until there is something if `wait`."""
        try:
            while True:
                received = self._inbox.get(block=wait)
                wait = False
                if isinstance(received, Request):
                    self._take(received)
                elif isinstance(received, Fetched):
                    self._main.counters.disk_hits += self._main.begin(received.request) and received.hit
                elif received is not None:
                    self._main.post(received)
        except Empty:
            return

    def _take(self, request: Request) -> None:
        """Give a request to its lane; it waits if the beginning of its prompt is on its way from elsewhere."""
        lane, stored = self._lane_of(request), request.stored
        if stored is not None and lane is self._main and lane.lacks(request, stored.tokens):
            lane.hold(request)
            stored.fetch(lambda hit: self._inbox.put(Fetched(request, hit)))
        else:
            lane.submit(request)

    def _lane_of(self, request: Request) -> Lane:
        if not request.options.deterministic or request.sequence.preload:
            return self._main
        if self._deterministic is None:
            self._deterministic = self._make_deterministic()
        return self._deterministic

    def _make_main(self) -> Lane:
        limits = self.limits
        cache = KvCache(
            CellTable(min(limits.first_cells, limits.n_ctx), limits.n_sequences),
            can_cut=self._model.can_cut,
            host_bytes=limits.cache_ram_bytes,
            block_tokens=min(BLOCK_TOKENS, self._model.part_tokens),
        )
        scheduler = Scheduler(cache, self._budget, limits.n_parallel, ceiling=limits.n_ctx)
        return Lane(self._model, scheduler, self._budget, self._now, self._aside)

    def _make_deterministic(self) -> Lane:
        """A context for one sequence at a time: what a batch and the cells hold depends on this request alone."""
        limits = self.limits
        budget = FixedBudget(DETERMINISTIC_PORTION, moving_s=self._budget.moving_s(1))
        cache = KvCache(
            CellTable(min(limits.first_cells, limits.n_ctx), 1),
            can_cut=self._model.can_cut,
            portion=DETERMINISTIC_PORTION,
        )
        scheduler = Scheduler(cache, budget, 1, ceiling=limits.n_ctx, portion=DETERMINISTIC_PORTION)
        return Lane(self._model, scheduler, budget, self._now, self._aside)

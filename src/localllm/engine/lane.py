"""One context and those who share its batches: plans a step, carries it out, hands the tokens out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from attrs import define

from localllm.engine.budget import Budget
from localllm.engine.growth import Growth
from localllm.engine.model import TokenContext, TokenModel
from localllm.engine.moving import Mover, carry_out
from localllm.engine.opening import Aside, Opening
from localllm.engine.plan import StepPlan
from localllm.engine.request import Request
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Sequence
from localllm.engine.speaker import Speaker
from localllm.engine.state import Job
from localllm.errors import BackendError, LocalLLMError
from localllm.types import FinishReason, Usage

_log = logging.getLogger("localllm.engine")


@define
class LaneCounters:
    """What a lane has done so far."""

    finished: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    disk_hits: int = 0
    steps: int = 0
    step_tokens: int = 0


class Lane:
    """Runs requests over one context, as its scheduler plans. Used by the engine's thread only.

    Args:
        model: The weights.
        scheduler: Plans over an account of the context's cells, which says how large it must be.
        budget: The scheduler's budget, told what each step cost.
        now: The clock, in seconds.
        aside: Runs the making of contexts.
    """

    def __init__(
        self,
        model: TokenModel,
        scheduler: Scheduler,
        budget: Budget,
        now: Callable[[], float],
        aside: Aside,
    ) -> None:
        self.scheduler = scheduler
        self.counters: LaneCounters = LaneCounters()
        self.requests: dict[Sequence, Request] = {}
        self._model = model
        self._context: TokenContext | None = None
        self._opening: Opening | None = None  # of the first context, or of one after a failure
        self._growth: Growth | None = None
        self._budget = budget
        self._now = now
        self._aside = aside
        self._mover = Mover(scheduler.cache, now)
        self._speaker = Speaker(model, now, self.finish)
        self._jobs: deque[Job] = deque()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.requests or self._jobs) or self._growth is not None

    def submit(self, request: Request) -> None:
        """Take a request."""
        self.requests[request.sequence] = request
        self.scheduler.submit(request.sequence)

    def lacks(self, request: Request, tokens: int) -> bool:
        """Whether much of the first `tokens` of a request's prompt would have to be computed."""
        cache = self.scheduler.cache
        return tokens > cache.reach(request.sequence.prompt) + cache.worth

    def hold(self, request: Request) -> None:
        """Take a request that is not to begin before `begin`; it may be cancelled and time out meanwhile."""
        self.requests[request.sequence] = request

    def begin(self, request: Request) -> bool:
        """Let a request begin that was held; False if it has ended meanwhile."""
        if request.sequence not in self.requests:
            return False
        self.scheduler.submit(request.sequence)
        return True

    def post(self, job: Job) -> None:
        """Take something to be done with the cache between two steps."""
        self._jobs.append(job)

    def sweep(self) -> None:
        """End the requests that were cancelled or whose time is up."""
        now_s = self._now()
        for request in list(self.requests.values()):
            if request.cancelled or request.output.broken_sink:
                self.finish(request, "cancelled")
            elif request.deadline_s is not None and now_s >= request.deadline_s:
                self.finish(request, "timeout")

    def step(self) -> bool:
        """Compute one batch and hand out what came of it.

        Returns:
            Whether anything was done. If not, a context is being made, or all wait for what `move` does.

        Raises:
            DecodeError: The context is broken; see `drop_context`.
            MemoryError: There is no memory for a context.
        """
        if not self._ready():
            return False
        worked = self._work()
        grew = self._grow()
        plan = self.scheduler.plan()
        self._carry_out(plan)
        ended = self._end_preloads() + self._end_unservable()
        if self._growth is None:
            self._growth = self._start_growth()
        return bool(plan.works or plan.moves or grew or ended or worked)

    def move(self, worked: bool) -> bool:
        """Have idle sequences leave for host memory, and others come back from there.

        Only while anybody runs, whom idle ones slow down; else the next turn finds its chat where it was.

        Args:
            worked: Whether the step before did anything.

        Returns:
            Whether anything was done, in that step or here.

        Raises:
            DecodeError: The context is broken.
        """
        scheduler = self.scheduler
        if self._context is None or not scheduler.busy:
            return worked
        if scheduler.moving:
            worked = self._mover.clear_out(self._context, self._moving_s) or worked
            if not scheduler.clearing:
                before = scheduler.preemptions
                worked = self._mover.bring_back(self._context, scheduler.next_load, self._moving_s) or worked
                worked = worked or scheduler.preemptions > before or bool(scheduler.unservable)
        if not worked and self._growth is None and scheduler.running:
            raise RuntimeError("the scheduler has work and planned none of it")
        return worked

    def copy_ahead(self) -> bool:
        """Copy a block of what will have to leave as soon as anybody runs; whether there may be more.

        Raises:
            DecodeError: The context is broken.
        """
        return self._context is not None and self._mover.copy_ahead(self._context)

    def open_now(self) -> None:
        """Make the first context before anything is asked.

        Raises:
            MemoryError: There is no memory for it.
        """
        table = self.scheduler.cache.table
        self._context = self._model.open_context(table.n_cells, table.n_sequences)

    def _ready(self) -> bool:
        """Whether there is a context; has one made if not."""
        if self._context is None:
            if self._opening is None:
                table = self.scheduler.cache.table
                self._opening = Opening(self._model, table.n_cells, table.n_sequences, self._aside)
            if self._opening.ready:
                opening, self._opening = self._opening, None
                self._context = opening.take()
        return self._context is not None

    def _work(self) -> bool:
        """Do what is first to be done with the cache; whether there was something."""
        if not self._jobs:
            return False
        job = self._jobs.popleft()
        try:
            job.run(self.scheduler.cache, self._open)
        except BaseException:
            job.give_up()
            raise
        return True

    def _grow(self) -> bool:
        """Carry some slices over to a larger context, if there is one; whether that was so."""
        if self._growth is None:
            return False
        try:
            larger = self._growth.step(self._open, self.scheduler.cache.table, self._moving_s)
        except MemoryError as exc:
            _log.warning("the context stays at %s tokens: %s", self.scheduler.cache.table.n_cells, exc)
            self.scheduler.cannot_grow()
            self._growth.abandon()
            self._growth = None
            return True
        if larger is not None:
            self._open.close()
            self._context = larger
            self.scheduler.grown(self._growth.n_cells)
            self._growth = None
        return self._growth is None or self._growth.under_way

    @property
    def _moving_s(self) -> float:
        return self._budget.moving_s(self.scheduler.streams)

    def _start_growth(self) -> Growth | None:
        """Have a larger context made, if one is wanted."""
        table, wanted = self.scheduler.cache.table, self.scheduler.wanted_cells
        if wanted <= table.n_cells:
            return None
        opening = Opening(self._model, wanted, table.n_sequences, self._aside)
        return Growth(opening, can_cut=self._model.can_cut, part_tokens=self._model.part_tokens, now=self._now)

    @property
    def _open(self) -> TokenContext:
        if self._context is None:
            raise RuntimeError("the lane has no context")
        return self._context

    def _carry_out(self, plan: StepPlan) -> None:
        context = self._open
        start_s = self._now()
        for sequence in plan.sequences:
            self.requests[sequence].output.admitted(start_s)
        if plan.moves:
            carry_out(context, plan.moves)
            start_s = self._now()
        if not plan.works:
            return
        outputs = context.decode(plan.works)
        asked = [
            (self.requests[sequence], output)
            for sequence, output in zip(plan.sequences, outputs, strict=True)
            if output >= 0
        ]
        # All grammars first: llama.cpp waits for a GPU when the first logits are asked for, and no sooner.
        asked = [(request, output) for request, output in asked if self._speaker.prepare(request)]
        chosen = [(request, self._speaker.choose(context, request, output)) for request, output in asked]
        self._budget.observe(plan.prefilled, plan.decoding, self._now() - start_s)
        self.counters.steps += 1
        self.counters.step_tokens += plan.prefilled + plan.decoding
        if plan.prefilled:
            self._report_progress(plan)
        for request, choice in chosen:
            if choice is not None:
                self._speaker.say(request, choice)

    def finish(self, request: Request, finish: FinishReason, error: LocalLLMError | None = None) -> None:
        """End a request, wherever it is."""
        sequence = request.sequence
        self.requests.pop(sequence, None)
        # What is read in the background is to be sent soon; so it stays worth its place when something newer ends it.
        goes_on = finish in ("stop", "length", "timeout") or (sequence.background and finish == "cancelled")
        self.scheduler.finish(sequence, goes_on=goes_on)
        if request.sampler is not None:
            request.sampler.close()
        usage = Usage(
            prompt_tokens=len(sequence.prompt),
            cached_tokens=sequence.cached,
            completion_tokens=sequence.generated,
            thought_tokens=request.output.thought_tokens,
        )
        self.counters.finished += 1
        self.counters.prompt_tokens += usage.prompt_tokens
        self.counters.cached_tokens += usage.cached_tokens
        self.counters.completion_tokens += usage.completion_tokens
        generated = tuple(sequence.tokens[len(sequence.prompt) :])
        request.output.end(finish, self._now(), usage, generated, error)

    def drop_context(self) -> None:
        """Give a broken context up; running requests go back to the queue and are read again from their tokens."""
        self.scheduler.forget()
        self._free_contexts()
        self._give_jobs_up()

    def close(self) -> None:
        """End all requests as cancelled and free the context."""
        for request in list(self.requests.values()):
            self.finish(request, "cancelled")
        self._free_contexts()
        self._give_jobs_up()

    def _give_jobs_up(self) -> None:
        while self._jobs:
            self._jobs.popleft().give_up()

    def _free_contexts(self) -> None:
        for owned in (self._opening, self._growth):
            if owned is not None:
                owned.abandon()
        if self._context is not None:
            self._context.close()
        self._context = self._opening = self._growth = None

    def _end_preloads(self) -> int:
        """End the preloads that are read to their end; how many."""
        preloads = [request for request in self.requests.values() if request.sequence.preload]
        read = [request for request in preloads if request.sequence.held is not None and not request.sequence.pending]
        for request in read:
            self.finish(request, "length")
        return len(read)

    def _end_unservable(self) -> int:
        """End the requests for which there is no memory; how many."""
        if not self.scheduler.unservable:
            return 0
        sequences, n_cells = list(self.scheduler.unservable), self.scheduler.cache.table.n_cells
        for sequence in sequences:
            error = BackendError(
                f"there is no memory for a context of more than {n_cells} tokens, and this request has come to "
                f"{len(sequence.tokens)}; close other models or programs, or choose a smaller model"
            )
            self.finish(self.requests[sequence], "error", error)
        return len(sequences)

    def _report_progress(self, plan: StepPlan) -> None:
        for sequence in plan.sequences:
            if sequence.computed <= len(sequence.prompt) and sequence in self.requests:
                output = self.requests[sequence].output
                output.progress(sequence.computed, sequence.cached, len(sequence.prompt))

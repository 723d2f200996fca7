"""One context and those who share its batches: plans a step, carries it out, hands the tokens out."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from attrs import define

from localllm.engine.budget import Budget
from localllm.engine.model import DecodeError, Sampler, TokenContext, TokenModel
from localllm.engine.output import Output
from localllm.engine.plan import Copy, Cut, Load, Save, StepPlan
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Sequence
from localllm.errors import BackendError, LocalLLMError
from localllm.options import RequestOptions
from localllm.types import FinishReason, Usage


@define(eq=False)
class Request:
    """A request on its way through the engine.

    Args:
        sequence: Its tokens.
        options: Its options.
        output: Where its text goes.
        deadline_s: When it times out, by the engine's clock, or None.
        cancelled: Set by any thread to have it end.
        sampler: Its sampler, once it has one.
        failures: Times that the context broke while it was being computed, with nothing generated in between.
    """

    sequence: Sequence
    options: RequestOptions
    output: Output
    deadline_s: float | None
    cancelled: bool = False
    sampler: Sampler | None = None
    failures: int = 0


@define
class LaneCounters:
    """What a lane has done so far."""

    finished: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0


class Lane:
    """Runs requests over one context, as its scheduler plans. Used by the engine's thread only.

    Args:
        model: The weights.
        scheduler: Plans over an account of the context's cells, which says how large it must be.
        budget: The scheduler's budget, told what each step cost.
        now: The clock, in seconds.
    """

    def __init__(
        self,
        model: TokenModel,
        scheduler: Scheduler,
        budget: Budget,
        now: Callable[[], float],
    ) -> None:
        self.scheduler = scheduler
        self.counters: LaneCounters = LaneCounters()
        self.requests: dict[Sequence, Request] = {}
        self._model = model
        self._context: TokenContext | None = None
        self._budget = budget
        self._now = now

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.requests)

    def submit(self, request: Request) -> None:
        """Take a request."""
        self.requests[request.sequence] = request
        self.scheduler.submit(request.sequence)

    def sweep(self) -> None:
        """End the requests that were cancelled or whose time is up."""
        now_s = self._now()
        for request in list(self.requests.values()):
            if request.cancelled or request.output.broken_sink:
                self.finish(request, "cancelled")
            elif request.deadline_s is not None and now_s >= request.deadline_s:
                self.finish(request, "timeout")

    def step(self) -> None:
        """Compute one batch and hand out what came of it.

        Raises:
            DecodeError: The context is broken; see `drop_context`.
            MemoryError: There is no memory for a context.
        """
        context = self.open()
        plan = self.scheduler.plan()
        start_s = self._now()
        for sequence in plan.sequences:
            self.requests[sequence].output.admitted(start_s)
        self._move(context, plan)
        outputs = context.decode(plan.works) if plan.works else ()
        sampled = [
            (self.requests[sequence], self._sample(context, self.requests[sequence], output))
            for sequence, output in zip(plan.sequences, outputs, strict=True)
            if output >= 0
        ]
        self._budget.observe(plan.prefilled, plan.decoding, self._now() - start_s)
        self.counters.steps += 1
        self.counters.step_tokens += plan.prefilled + plan.decoding
        self._report_progress(plan)
        for request, token in sampled:
            if token is not None:
                self._take(request, token)
        for request in [request for request in self.requests.values() if request.sequence.preload]:
            if request.sequence.held is not None and not request.sequence.pending:
                self.finish(request, "length")
        if not plan.works and not plan.moves and self.scheduler.running:
            raise RuntimeError("the scheduler has work and planned none of it")

    def finish(self, request: Request, finish: FinishReason, error: LocalLLMError | None = None) -> None:
        """End a request, wherever it is."""
        sequence = request.sequence
        self.requests.pop(sequence, None)
        self.scheduler.finish(sequence, goes_on=finish in ("stop", "length", "timeout"))
        if request.sampler is not None:
            request.sampler.close()
        usage = Usage(
            prompt_tokens=len(sequence.prompt), cached_tokens=sequence.cached, completion_tokens=sequence.generated
        )
        self.counters.finished += 1
        self.counters.prompt_tokens += usage.prompt_tokens
        self.counters.cached_tokens += usage.cached_tokens
        self.counters.completion_tokens += usage.completion_tokens
        generated = tuple(sequence.tokens[len(sequence.prompt) :])
        request.output.end(finish, self._now(), usage, generated, error)

    def open(self) -> TokenContext:
        """Return the context; opens it if there is none.

        Raises:
            MemoryError: There is no memory for it.
        """
        if self._context is None:
            table = self.scheduler.table
            self._context = self._model.open_context(table.n_cells, table.n_sequences)
        return self._context

    def drop_context(self) -> None:
        """Give a broken context up; running requests go back to the queue and are read again from their tokens."""
        self.scheduler.forget()
        if self._context is not None:
            self._context.close()
            self._context = None

    def close(self) -> None:
        """End all requests as cancelled and free the context."""
        for request in list(self.requests.values()):
            self.finish(request, "cancelled")
        if self._context is not None:
            self._context.close()
            self._context = None

    def _move(self, context: TokenContext, plan: StepPlan) -> None:
        for move in plan.moves:
            match move:
                case Copy(source, target, length):
                    context.copy(source, target, length)
                case Cut(seq_id, length):
                    context.cut(seq_id, length)
                case Save(seq_id, target):
                    self.scheduler.host.saved(target, context.save(seq_id))
                case Load(source, seq_id):
                    if source.data is None:
                        raise DecodeError("a sequence was to be loaded that was never saved")
                    context.load(seq_id, source.data)
                case _:
                    assert_never(move)

    def _report_progress(self, plan: StepPlan) -> None:
        for sequence in plan.sequences:
            if sequence.computed <= len(sequence.prompt) and sequence in self.requests:
                output = self.requests[sequence].output
                output.progress(sequence.computed, sequence.cached, len(sequence.prompt))

    def _sample(self, context: TokenContext, request: Request, output: int) -> int | None:
        """Choose a request's next token; a failure is its own."""
        try:
            if request.sampler is None:
                request.sampler = self._model.make_sampler(request.options, request.sequence.prompt)
            return context.sample(output, request.sampler)
        except LocalLLMError as exc:
            self.finish(request, "error", exc)
        except Exception as exc:  # noqa: BLE001  # whatever a sampler raises ends its own request only
            error = BackendError(f"sampling failed: {exc}")
            error.__cause__ = exc
            self.finish(request, "error", error)
        return None

    def _take(self, request: Request, token: int) -> None:
        sequence, output = request.sequence, request.output
        if self._model.is_end(token):
            self.finish(request, "stop")
            return
        sequence.append(token)
        request.failures = 0
        output.token(self._model.piece(token), self._now())
        if output.stopped:
            self.finish(request, "stop")
        elif sequence.generated >= sequence.max_new:
            self.finish(request, "length")

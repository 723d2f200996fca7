"""Whatever the schedule, each request's tokens are those of running it alone. Driven over the toy model."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Tokens

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from localllm.engine.budget import FixedBudget
from localllm.engine.cells import CellTable
from localllm.engine.kv_cache import KvCache
from localllm.engine.lane import Lane
from localllm.engine.model import DecodeError
from localllm.engine.output import Output
from localllm.engine.request import Request
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Sequence
from localllm.options import RequestOptions
from localllm.types import BackendEvent, GenerationEnded, TextDelta

from .toy import ToyConstraint, ToyFold, ToyModel, solo

N_CELLS, N_SEQUENCES, N_PARALLEL = 96, 7, 4
STARTS = [[7] * 40, list(range(1, 60)), [5, 6] * 10]  # prompts share these prefixes


class Submitted:
    """A request, what it delivered, and what it yields alone.

    Args:
        prompt: Its prompt.
        max_new: Tokens at most.
        preload: Whether it only reads.
        grammar: What it is held to, if it isn't empty.
        most_thought: Tokens of thoughts at most.
        said: Tokens that an earlier run of it has generated, of those that it yields.
        logprobs: Whether they are asked for.
        background: Whether it comes behind all others.
    """

    def __init__(
        self,
        prompt: list[int],
        max_new: int,
        preload: bool = False,
        grammar: str = "",
        most_thought: int | None = None,
        said: int = 0,
        logprobs: bool = False,
        background: bool = False,
    ) -> None:
        self.prompt, self.max_new, self.preload = prompt, max_new, preload
        self.expected = [] if preload else solo(prompt, max_new, grammar, most_thought)
        self.said = min(said, len(self.expected))
        self.events: list[BackendEvent] = []
        self.request = Request(
            Sequence(array("i", prompt), max_new=max_new, preload=preload, background=preload or background),
            RequestOptions(max_thought_tokens=most_thought, top_logprobs=1 if logprobs else None),
            Output(self.events.append, (), 0.0, "toy", ToyFold()),
            None,
            deque(self.expected[: self.said]),
            ToyConstraint(grammar) if grammar else None,
        )

    @property
    def tokens(self) -> list[int]:
        """What was generated, read back from the text; what an earlier run delivered comes before it."""
        text = "".join(event.text for event in self.events if isinstance(event, TextDelta))
        return [*self.expected[: self.said], *(int(word) for word in text.split())]

    @property
    def ended(self) -> GenerationEnded | None:
        """The end, if it came; nothing may come after it."""
        ends = [event for event in self.events if isinstance(event, GenerationEnded)]
        assert len(ends) <= 1
        assert not ends or self.events[-1] is ends[0]
        return ends[0] if ends else None


class Schedules(RuleBasedStateMachine):
    """Submits, cancels, breaks and steps in any order."""

    submitted = Bundle("submitted")
    can_cut = True
    portion = 0
    host_bytes = 0
    first_cells = N_CELLS

    def __init__(self) -> None:
        super().__init__()
        self.model = ToyModel(can_cut=self.can_cut)
        self.aside: list[Callable[[], None]] = []  # contexts that are being made
        budget = FixedBudget(self.portion or 16)
        n_sequences, n_parallel = (1, 1) if self.portion else (N_SEQUENCES, N_PARALLEL)
        cache = KvCache(
            CellTable(self.first_cells, n_sequences),
            can_cut=self.can_cut,
            host_bytes=self.host_bytes,
            portion=self.portion,
            worth_tokens=4,
            block_tokens=8,
        )
        self.scheduler = Scheduler(cache, budget, n_parallel, ceiling=N_CELLS, portion=self.portion)
        self.lane = Lane(self.model, self.scheduler, budget, lambda: 0.0, self.run_aside)
        self.all: list[Submitted] = []

    def run_aside(self, work: Callable[[], None]) -> Callable[[], None]:
        """Put off the making of a context; the function that waits for it has it made."""
        self.aside.append(work)
        return self.finish_aside

    @rule()
    def finish_aside(self) -> None:
        """Contexts that were being made are ready."""
        while self.aside:
            self.aside.pop()()

    def step(self) -> None:
        """Do what the engine's loop does."""
        self.lane.sweep()
        if not self.lane.busy:
            self.lane.copy_ahead()
        else:
            try:
                if not self.lane.move(self.lane.step()):
                    assert self.aside, "nothing is done and nothing is waited for"
                    self.finish_aside()
            except DecodeError:
                self.lane.drop_context()

    @rule(
        target=submitted,
        start=st.sampled_from(STARTS),
        cut=st.integers(0, 60),
        rest=st.lists(st.integers(1, 9), min_size=1, max_size=8),
        max_new=st.integers(1, 30),
        kind=st.sampled_from(["reply", "preload", "background"]),
    )
    def submit(self, start: Tokens[int], cut: int, rest: list[int], max_new: int, kind: str) -> Submitted:
        """A prompt that fits alone is submitted."""
        prompt = [*start[:cut], *rest]
        most = min(max_new, N_CELLS - len(prompt))
        return self.send(Submitted(prompt, most, kind == "preload", background=kind == "background"))

    @rule(
        target=submitted,
        start=st.sampled_from(STARTS),
        cut=st.integers(0, 60),
        max_new=st.integers(1, 30),
        grammar=st.sampled_from(["", "a", "b", "c", "d"]),
        most_thought=st.sampled_from([None, 0, 2]),
        said=st.sampled_from([0, 0, 1, 5, 11]),
        logprobs=st.booleans(),
    )
    def submit_held(
        self,
        start: Tokens[int],
        cut: int,
        max_new: int,
        grammar: str,
        most_thought: int | None,
        said: int,
        logprobs: bool,
    ) -> Submitted:
        """A prompt whose reply is held to a grammar, thinks little, or goes on from an earlier run, is submitted."""
        prompt = [*start[:cut], 1]
        most = min(max_new, N_CELLS - len(prompt))
        return self.send(Submitted(prompt, most, False, grammar, most_thought, said, logprobs))

    def send(self, request: Submitted) -> Submitted:
        """Submit it."""
        self.all.append(request)
        self.lane.submit(request.request)
        return request

    @rule(target=submitted, earlier=submitted, rest=st.lists(st.integers(1, 9), min_size=1, max_size=5))
    def next_turn(self, earlier: Submitted, rest: list[int]) -> Submitted:
        """A chat goes on: its prompt is an earlier one with what was generated for it."""
        prompt = [*earlier.prompt, *earlier.tokens, *rest][: N_CELLS - 10]
        return self.send(Submitted(prompt, 8))

    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        """Some steps are taken."""
        for _ in range(count):
            self.step()

    @rule(request=submitted)
    def cancel(self, request: Submitted) -> None:
        """A request is cancelled, at whatever stage."""
        request.request.cancelled = True

    @rule()
    def break_context(self) -> None:
        """The next batch fails and the context is lost."""
        for context in self.model.contexts:
            context.fail_next = not context.closed

    @invariant()
    def account_agrees(self) -> None:
        """The account of cells is what the context holds, up to moves that are still to be done."""
        table, host = self.scheduler.cache.table, self.scheduler.cache.host
        assert 0 <= table.used <= table.n_cells <= N_CELLS
        assert table.used == table.needed_by(table.held.values())
        assert len(table.held) <= table.n_sequences
        assert 0 <= host.used_bytes <= self.host_bytes

    @invariant()
    def texts_are_solo(self) -> None:
        """What was delivered so far is what the request yields alone."""
        for request in self.all:
            assert request.tokens == request.expected[: len(request.tokens)]

    def teardown(self) -> None:
        """Everybody ends within a bound of steps, with their solo text unless cancelled, and no sequence leaks."""
        work = sum(len(request.prompt) + request.max_new + 2 for request in self.all if request.ended is None)
        for _ in range(2 * work + 10):
            if not self.lane.busy:
                break
            self.step()
        assert not self.lane.busy, "somebody starves"
        for request in self.all:
            ended = request.ended
            assert ended is not None
            if ended.finish_reason in ("stop", "length"):
                assert request.tokens == request.expected
            else:
                assert ended.finish_reason == "cancelled"
                assert request.request.cancelled
            assert ended.usage.cached_tokens <= ended.usage.prompt_tokens == len(request.prompt)
        table = self.scheduler.cache.table
        assert not any(held.busy for held in table.held.values())
        assert sum(not context.closed for context in self.model.contexts) <= 1, "a context was lost on the way"
        for held in list(table.held.values()):
            table.give_back(held)
        assert table.used == 0
        self.lane.close()
        assert all(context.closed for context in self.model.contexts)


class HostSchedules(Schedules):
    """The same with idle sequences moved to host memory, which holds a few of them."""

    host_bytes = 120


class WholeOnlyHostSchedules(HostSchedules):
    """Both at once."""

    can_cut = False


class WholeOnlySchedules(Schedules):
    """The same for a model whose sequences cannot be cut."""

    can_cut = False


class PortionSchedules(Schedules):
    """The same for deterministic requests: one at a time, in whole portions."""

    portion = 16


class GrowingSchedules(Schedules):
    """The same over a context that begins with a few cells and grows; idle sequences stay in it."""

    first_cells = 12


class GrowingHostSchedules(HostSchedules):
    """The same with idle sequences in host memory."""

    first_cells = 12


class GrowingWholeOnlyHostSchedules(WholeOnlyHostSchedules):
    """The same for a model whose sequences cannot be cut."""

    first_cells = 12


class GrowingPortionSchedules(PortionSchedules):
    """The same for deterministic requests."""

    first_cells = 12


_settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
for _machine in (
    Schedules,
    HostSchedules,
    WholeOnlySchedules,
    WholeOnlyHostSchedules,
    PortionSchedules,
    GrowingSchedules,
    GrowingHostSchedules,
    GrowingWholeOnlyHostSchedules,
    GrowingPortionSchedules,
):
    _machine.TestCase.settings = _settings
TestSchedules = Schedules.TestCase
TestHostSchedules = HostSchedules.TestCase
TestWholeOnlySchedules = WholeOnlySchedules.TestCase
TestWholeOnlyHostSchedules = WholeOnlyHostSchedules.TestCase
TestPortionSchedules = PortionSchedules.TestCase
TestGrowingSchedules = GrowingSchedules.TestCase
TestGrowingHostSchedules = GrowingHostSchedules.TestCase
TestGrowingWholeOnlyHostSchedules = GrowingWholeOnlyHostSchedules.TestCase
TestGrowingPortionSchedules = GrowingPortionSchedules.TestCase

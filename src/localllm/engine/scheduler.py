"""Who computes what in the next step. Pure: no clock, no thread, no native code.

Requests are admitted first come first served, as many as may run at once. Each step gives every streaming sequence
one token, or several where they are known already, then shares the budget for prompt tokens fairly. A prompt starts
from the longest prefix that any sequence holds, running ones and those in host memory too; requests that share a
prefix nobody has computed yet wait for the first of them to compute it. While anyone runs, idle sequences move to host
memory. When cells run short the context is to grow, up to its ceiling; there, the youngest running request is
preempted: its tokens are kept and read again later. The oldest is never preempted, so each ends in its time.
Requests in the background, such as preloads, come behind all others in all of this.
"""

from __future__ import annotations

from collections import deque

from localllm.engine.budget import Budget
from localllm.engine.cells import Held
from localllm.engine.growth import larger
from localllm.engine.kv_cache import KvCache
from localllm.engine.model import Work
from localllm.engine.plan import Load, StepPlan
from localllm.engine.prefix_cache import common_prefix
from localllm.engine.sequence import Sequence

LOOKAHEAD = 64
"""Tokens of each reply for which there are to be cells before they are generated: half a second, in which a larger
context can be made."""


class Scheduler:
    """Plans steps over the cells of one context.

    Args:
        cache: The context's cells.
        budget: Says how many prompt tokens a step may hold.
        n_parallel: Requests that run at once.
        ceiling: Cells up to which the context may grow; None for those it has.
        portion: Read prompts in portions of exactly so many tokens; 0 for as the budget says.
    """

    def __init__(
        self, cache: KvCache, budget: Budget, n_parallel: int, *, ceiling: int | None = None, portion: int = 0
    ) -> None:
        self.cache: KvCache = cache
        self.budget = budget
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.unservable: list[Sequence] = []
        self.cache_hits: int = 0
        self.preemptions: int = 0
        self.ceiling: int = cache.table.n_cells if ceiling is None else ceiling
        self.wanted_cells: int = cache.table.n_cells
        self._n_parallel = n_parallel
        self._portion = portion
        self._head_cells = 0  # what the first in the queue lacks room for
        self._works: dict[Sequence, Work] = {}  # of the step being planned; a preemption takes its own out again

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    @property
    def streams(self) -> int:
        """How many requests stream."""
        return sum(sequence.decoding for sequence in self.running)

    @property
    def clearing(self) -> bool:
        """Whether everything waits for idle sequences to leave, as it does unless somebody streams.

        What is computed or brought back before takes cells behind theirs, and pays for the gap for as long as it lives:
        attention looks at all cells up to the last one in use.
        """
        return bool(self.cache.leaving) and not self.streams

    @property
    def moving(self) -> bool:
        """Whether sequences are on their way to host memory or back."""
        return bool(self.cache.leaving) or any(sequence.loads for sequence in self.running)

    def submit(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue; those in the background stay behind everybody else."""
        first_behind = next((i for i, other in enumerate(self.waiting) if other.background), len(self.waiting))
        self.waiting.insert(len(self.waiting) if sequence.background else first_behind, sequence)

    def finish(self, sequence: Sequence, *, goes_on: bool = True) -> None:
        """Take a request out, wherever it is; what it computed stays as an idle, cached sequence.

        Args:
            sequence: The request.
            goes_on: Whether another turn may follow, so that it is worth a place in host memory later.
        """
        if sequence in self.unservable:
            self.unservable.remove(sequence)
        if sequence in self.running:
            if sequence.held is not None:
                sequence.held.goes_on = goes_on
            self._stop(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def forget(self) -> None:
        """The context is lost: running requests go back to the queue, oldest first; host memory stays."""
        for sequence in reversed(self.running):
            sequence.held = sequence.leader = None
            sequence.loads.clear()
            sequence.computed = sequence.shared = 0
            self.waiting.appendleft(sequence)
        self.running.clear()
        self.unservable.clear()
        self.cache.forget()

    def grown(self, n_cells: int) -> None:
        """The context has `n_cells` now; all that it held was carried over."""
        self.cache.table.n_cells = n_cells

    def cannot_grow(self) -> None:
        """There is no memory for a larger context: make do with this one."""
        self.ceiling = self.cache.table.n_cells

    def plan(self) -> StepPlan:
        """Return the next step; its effect on the cells is already in the account."""
        self._head_cells = 0
        self._yield_to_replies()
        while self.waiting and len(self.running) < self._n_parallel and self._admit(self.waiting[0]):
            self.waiting.popleft()
        for sequence in self.running:
            self._share(sequence)
        if not self.clearing:
            for sequence, size in self._decodes():
                self._add(sequence, size)
            for sequence, size in self._portions(len(self._works)):
                self._add(sequence, size)
        self._look_ahead()
        decoding = sum(sequence.computed > len(sequence.prompt) for sequence in self._works)
        prefilled = sum(len(work.tokens) for work in self._works.values()) - decoding
        works = tuple(self._works.values())
        plan = StepPlan(self.cache.take_moves(), works, tuple(self._works), prefilled, decoding)
        self._works.clear()
        return plan

    def _yield_to_replies(self) -> None:
        """Send what runs in the background back to the queue if it keeps a reply waiting; what it read stays cached."""
        for sequence in [sequence for sequence in self.running if sequence.background]:
            if not self.waiting or self.waiting[0].background or len(self.running) < self._n_parallel:
                return
            if sequence.held is not None:
                sequence.held.goes_on = True
            self._stop(sequence)
            sequence.computed = 0
            self.waiting.append(sequence)

    def next_load(self) -> Load | None:
        """Return what to bring back next from host memory, the oldest request's first; the account has it already.

        There is room for it once the cache's moves are made. None if there is nothing, or no room.
        """
        for sequence in list(self.running):
            held = sequence.held
            if not sequence.loads or sequence.leader is not None or held is None or sequence not in self.running:
                continue
            block, start, stop = sequence.loads[0]
            if self._make_room(stop - start, sequence):
                self.cache.table.append(held, block.tokens[start - block.start : stop - block.start])
                del sequence.loads[0]
                sequence.computed = stop
                return Load(block, held.seq_id, start, stop)
        return None

    def _decodes(self) -> list[tuple[Sequence, int]]:
        """Give each streaming sequence the token that it sampled last, and tokens forced after it, which cost the same
        as prompt tokens: of their budget they may take half, and all of it while nobody reads a prompt."""
        decoding = [sequence for sequence in self.running if sequence.decoding]
        runs = [sequence.run for sequence in decoding]
        forced = 0
        if sum(runs) > len(runs):
            forced = self.budget.prefill_tokens(len(decoding))
            forced //= 2 if any(sequence.unread and not sequence.loads for sequence in self.running) else 1
        sizes: list[tuple[Sequence, int]] = []
        for sequence, run in zip(decoding, runs, strict=True):
            extra = min(run - 1, forced)
            forced -= extra
            sizes.append((sequence, 1 + extra))
        return sizes

    def _portions(self, decoding: int) -> list[tuple[Sequence, int]]:
        """Share the budget for prompt tokens: equal parts, what one doesn't need goes to the next, oldest first."""
        readers = [s for s in self.running if s.unread and not s.loads and s.leader is None and not s.background]
        if not readers:
            readers = [s for s in self.running if s.unread and not s.loads and s.leader is None][:1]
        if not readers:
            return []
        forced = sum(len(work.tokens) for work in self._works.values()) - decoding
        budget = max(self.budget.prefill_tokens(decoding) - forced, 0)
        portions: list[tuple[Sequence, int]] = []
        for count, sequence in zip(range(len(readers), 0, -1), sorted(readers, key=_unread), strict=True):
            size = min(budget // count, sequence.unread)
            budget -= size
            if size:
                portions.append((sequence, size))
        return portions

    def _add(self, sequence: Sequence, size: int) -> None:
        """Plan the next `size` tokens of a sequence, unless there is no room or making it preempted this one."""
        held = sequence.held
        if held is None or not self._make_room(size, sequence):
            return
        start = sequence.computed
        tokens = sequence.tokens[start : start + size]
        self.cache.table.append(held, tokens)
        sequence.computed += size
        wanted = sequence.pending == 0 and not sequence.preload
        self._works[sequence] = Work(held.seq_id, start, tokens, wanted)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a request a sequence id and the longest prefix there is; False while there is no room."""
        # A prompt's last token is always computed: its logits are what the first token is sampled from.
        most = len(sequence.tokens) - (0 if sequence.preload else 1)
        source, length = self.cache.best(sequence.tokens, most)
        loads = self.cache.best_of_host(sequence.tokens, most, length)
        if loads and not self.cache.can_cut:
            source, length = None, 0
        leader, shared = self._leader_for(sequence, loads[-1][2] if loads else length)
        cells = len(sequence.tokens) - max(length, shared) + 1
        if self.running and not self._room_for(cells, source):
            self._head_cells = cells
            return False
        held = self.cache.claim(source, length)
        if held is None:
            return False
        sequence.held = held
        sequence.computed = length
        sequence.loads = loads
        sequence.leader, sequence.shared = leader, shared
        if not sequence.admitted:
            sequence.admitted = True
            found = loads[-1][2] if loads else length
            sequence.cached = min(found, len(sequence.prompt))
            self.cache_hits += found > 0
        self.running.append(sequence)
        return True

    def _leader_for(self, sequence: Sequence, has: int) -> tuple[Sequence | None, int]:
        """Return a running request that will compute a much longer prefix than the `has` tokens there are, and its end.

        A new request waits for it.
        """
        leader, shared = None, 0
        for other in self.running if self.cache.can_cut else ():
            if other is sequence or other.leader is not None or not other.prefilling:
                continue
            best = max(shared, has + self.cache.worth)
            common = min(common_prefix(sequence.prompt, other.prompt, best), len(sequence.prompt) - 1)
            if common > best and common > other.computed:
                leader, shared = other, common
        return leader, shared

    def _share(self, sequence: Sequence) -> None:
        """Copy the common prefix once the leader has computed it."""
        leader, held = sequence.leader, sequence.held
        if leader is not None and leader.held is not None and held is not None and leader.computed >= sequence.shared:
            self.cache.copy(leader.held, held, sequence.shared)
            sequence.computed = sequence.cached = sequence.shared
            sequence.leader, sequence.shared = None, 0
            sequence.loads.clear()

    def _room_for(self, cells: int, source: Held | None) -> bool:
        """Whether there is room for a request's `cells` beside what runs, once all idle sequences are gone."""
        table = self.cache.table
        kept = table.needed_by(held for held in table.held.values() if held.busy or held is source)
        unread = sum(max(sequence.unread - sequence.shared, 1) for sequence in self.running)
        return kept + unread + cells <= table.n_cells

    def _make_room(self, cells: int, sequence: Sequence) -> bool:
        """Free cells for one sequence's work; False if it has to wait for them, or was preempted itself."""
        table = self.cache.table
        while table.free < cells:
            idle = self.cache.idle
            if table.n_cells < self.ceiling or (idle and self.cache.host.limit_bytes):
                return False  # the context is about to grow, or idle ones are on their way to host memory
            if idle:
                self.cache.evict(idle[0])
            elif len(self.running) == 1:
                if sequence not in self.unservable:
                    self.unservable.append(sequence)  # it fits a context that there is no memory for
                return False
            else:
                first = self._least()
                self._preempt(first)
                if first is sequence:
                    return False
        return True

    def _look_ahead(self) -> None:
        """Say how many cells there should be, soon: for what runs and a while ahead, and for the first in the queue.

        Without host memory idle sequences stay in the context, so that they count, too.
        """
        table = self.cache.table
        ahead = sum(
            sequence.pending - sequence.shared + min(sequence.max_new - sequence.generated, LOOKAHEAD)
            for sequence in self.running
        )
        self.wanted_cells = table.n_cells
        if table.used + ahead + self._head_cells <= table.n_cells:
            return
        keeps_idle = not self.cache.host.limit_bytes
        kept = table.needed_by(held for held in table.held.values() if held.busy or keeps_idle)
        wanted = kept + ahead + self._head_cells
        while self.wanted_cells < min(wanted, self.ceiling):
            self.wanted_cells = larger(self.wanted_cells, self.ceiling)

    def _least(self) -> Sequence:
        """Return who gives its cells up first: the youngest of those in the background, then the youngest of all."""
        return next((sequence for sequence in reversed(self.running) if sequence.background), self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running request's cells; it goes back to the queue and is read again later.

        A reply goes to the head of it; in the background, behind everybody else.
        """
        self.preemptions += 1
        held = sequence.held
        self._works.pop(sequence, None)
        self._stop(sequence)
        if held is not None:
            self.cache.free(held)
        sequence.computed = 0
        if sequence.background:
            self.waiting.append(sequence)
        else:
            self.waiting.appendleft(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """Take a request out of the running ones; its cells stay as an idle sequence, its followers look anew."""
        self.running.remove(sequence)
        held, sequence.held, sequence.leader = sequence.held, None, None
        sequence.shared = 0
        sequence.loads.clear()
        if held is not None:
            self.cache.release(held, len(sequence.prompt))
        orphans = [other for other in self.running if other.leader is sequence]
        for other in orphans:
            other.leader, other.shared = None, 0
        for other in orphans:
            other.leader, other.shared = self._leader_for(other, other.loads[-1][2] if other.loads else other.computed)


def _unread(sequence: Sequence) -> int:
    return sequence.unread

"""Who computes what in the next step. Pure: no clock, no thread, no native code.

Requests are admitted first come first served, as many as may run at once. Each step gives every streaming sequence
one token, then shares the budget for prompt tokens fairly. A prompt starts from the longest prefix that any sequence
holds, running ones too; requests that share a prefix nobody has computed yet wait for the first of them to compute
it. When cells run out, idle sequences are evicted, least recently used first; then the youngest running request is
preempted: its tokens are kept and read again later. The oldest is never preempted, so each ends in its time.
"""

from __future__ import annotations

from collections import deque

from localllm.engine.budget import Budget
from localllm.engine.cells import CellTable, Held
from localllm.engine.host_cache import HostCache
from localllm.engine.model import Work
from localllm.engine.plan import Copy, Cut, Load, Move, Save, StepPlan
from localllm.engine.prefix_cache import common_prefix, least_recently_used, longest_prefix
from localllm.engine.sequence import Sequence

WORTH_TOKENS = 32
"""Tokens from which on a prefix is worth waiting, moving or copying for: a guess, some 100 ms of reading."""


class Scheduler:
    """Plans steps over the cells of one context.

    Args:
        table: The account of the context's cells.
        budget: Says how many prompt tokens a step may hold.
        n_parallel: Requests that run at once.
        can_cut: Whether the model's sequences may be cut and copied in part.
        host_bytes: Bytes of host memory for idle sequences.
        portion: Read prompts in portions of exactly so many tokens, and reuse only whole portions; 0 for as the
            budget says.
        worth_tokens: Tokens from which on a prefix is worth waiting, moving or copying for.
    """

    def __init__(
        self,
        table: CellTable,
        budget: Budget,
        n_parallel: int,
        *,
        can_cut: bool = True,
        host_bytes: int = 0,
        portion: int = 0,
        worth_tokens: int = WORTH_TOKENS,
    ) -> None:
        self.table: CellTable = table
        self.budget = budget
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.evictions: int = 0
        self.cache_hits: int = 0
        self.preemptions: int = 0
        self._n_parallel = n_parallel
        self._can_cut = can_cut
        self._worth = worth_tokens
        self._portion = portion
        self._moves: list[Move] = []
        self.host: HostCache = HostCache(0 if portion else host_bytes)
        self._works: dict[Sequence, Work] = {}  # of the step being planned; a preemption takes its own out again

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def submit(self, sequence: Sequence) -> None:
        """Put a request at the end of the queue; preloads stay behind everybody else."""
        first_preload = next((i for i, other in enumerate(self.waiting) if other.preload), len(self.waiting))
        self.waiting.insert(len(self.waiting) if sequence.preload else first_preload, sequence)

    def finish(self, sequence: Sequence, *, goes_on: bool = True) -> None:
        """Take a request out, wherever it is; what it computed stays as an idle, cached sequence.

        Args:
            sequence: The request.
            goes_on: Whether another turn may follow, so that it is worth a place in host memory later.
        """
        if sequence in self.running:
            if sequence.held is not None:
                sequence.held.goes_on = goes_on
            self._stop(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def forget(self) -> None:
        """The context is lost: running requests go back to the queue, oldest first; nothing is cached any more."""
        for sequence in reversed(self.running):
            sequence.held = sequence.leader = None
            sequence.computed = 0
            self.waiting.appendleft(sequence)
        self.running.clear()
        self.table = CellTable(self.table.n_cells, self.table.n_sequences)
        self._moves.clear()
        self.host.forget_unsaved()

    def plan(self) -> StepPlan:
        """Return the next step; its effect on the cells is already in the account."""
        self._yield_to_replies()
        while self.waiting and len(self.running) < self._n_parallel and self._admit(self.waiting[0]):
            self.waiting.popleft()
        for sequence in self.running:
            self._share(sequence)
        for sequence in [sequence for sequence in self.running if sequence.decoding]:
            self._add(sequence, 1)
        decoding = len(self._works)
        for sequence, size in self._portions(decoding):
            self._add(sequence, size)
        decoding = sum(sequence.computed > len(sequence.prompt) for sequence in self._works)
        prefilled = sum(len(work.tokens) for work in self._works.values()) - decoding
        plan = StepPlan(tuple(self._moves), tuple(self._works.values()), tuple(self._works), prefilled, decoding)
        self._moves.clear()
        self._works.clear()
        return plan

    def _yield_to_replies(self) -> None:
        """Send running preloads back to the queue if they keep a reply waiting; what they read stays cached."""
        for sequence in [sequence for sequence in self.running if sequence.preload]:
            if not self.waiting or self.waiting[0].preload or len(self.running) < self._n_parallel:
                return
            self._stop(sequence)
            sequence.computed = 0
            self.waiting.append(sequence)

    def _portions(self, decoding: int) -> list[tuple[Sequence, int]]:
        """Share the budget for prompt tokens: equal parts, what one doesn't need goes to the next, oldest first."""
        readers = [s for s in self.running if s.prefilling and s.leader is None and not s.preload]
        if not readers:
            readers = [s for s in self.running if s.prefilling and s.leader is None][:1]
        budget = self.budget.prefill_tokens(decoding) if readers else 0
        portions: list[tuple[Sequence, int]] = []
        for count, sequence in zip(range(len(readers), 0, -1), sorted(readers, key=_unread), strict=True):
            size = min(budget // count, _unread(sequence))
            budget -= size
            if size:
                portions.append((sequence, size))
        return portions

    def _add(self, sequence: Sequence, size: int) -> None:
        """Plan the next `size` tokens of a sequence, unless making room for them preempted it."""
        held = sequence.held
        if held is None or not self._make_room(size, sequence):
            return
        start = sequence.computed
        tokens = sequence.tokens[start : start + size]
        self.table.append(held, tokens)
        sequence.computed += size
        wanted = sequence.pending == 0 and not sequence.preload
        self._works[sequence] = Work(held.seq_id, start, tokens, wanted)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a request a sequence id and the longest prefix there is; False while there is no room."""
        source, length = self._best(sequence)
        source, length = self._best_of_host(sequence, source, length)
        # A prompt's last token is always computed: its logits are what the first token is sampled from.
        length = min(length, len(sequence.tokens) - (0 if sequence.preload else 1))
        length -= length % self._portion if self._portion else 0
        if self.running and not self._room_for(len(sequence.tokens) - length + 1, source):
            return False
        held = self._continue(source, length) if source is not None and length else None
        if held is None:
            held, length = self._fresh(source, length)
        if held is None:
            return False
        sequence.held = held
        sequence.computed = length
        if not sequence.admitted:
            sequence.admitted = True
            sequence.cached = min(length, len(sequence.prompt))
            self.cache_hits += length > 0
        self.running.append(sequence)
        self._follow(sequence)
        return True

    def _best(self, sequence: Sequence) -> tuple[Held | None, int]:
        """Return the longest usable prefix of what a request needs."""
        if self._can_cut:
            return longest_prefix(sequence.tokens, self.table.held.values())
        whole = [
            held
            for held in self.table.held.values()
            if not held.busy and len(held.tokens) < len(sequence.tokens) + sequence.preload
        ]
        matches = [held for held in whole if common_prefix(sequence.tokens, held.tokens) == len(held.tokens)]
        best = max(matches, key=lambda held: len(held.tokens), default=None)
        return best, len(best.tokens) if best is not None else 0

    def _best_of_host(self, sequence: Sequence, source: Held | None, length: int) -> tuple[Held | None, int]:
        """Make way for a request: move idle sequences to host memory, and the best one of there back, if it is better.

        Attention looks at all cells up to the last one in use, so idle sequences cost every token that runs beside
        them; moving 1,024 tokens takes 3 ms, once.
        """
        if not self.host.limit_bytes:
            return source, length
        if length < self._worth and source is not None and not source.busy:
            source, length = None, 0
        for held in [held for held in self.table.held.values() if not held.busy and held is not source]:
            if len(held.tokens) >= self._worth:
                self._stash(held)
        found, longest = longest_prefix(sequence.tokens, self.host.entries)
        whole = found is not None and (self._can_cut or longest == len(found.tokens) < len(sequence.tokens))
        if found is None or not whole or longest <= length + self._worth:
            return source, length
        if not self.table.has_free_id or self.table.free < len(found.tokens):
            return source, length
        self.host.take(found)
        held = self.table.take()
        held.busy, held.goes_on = False, True
        self._moves.append(Load(found, held.seq_id))
        self.table.append(held, found.tokens)
        return held, longest

    def _stash(self, held: Held) -> None:
        """Move an idle sequence to host memory, or give it up if no turn may follow."""
        if held.goes_on:
            self._moves.append(Save(held.seq_id, self.host.add(held)))
            self._cut(held, 0)
            self.table.give_back(held)
        else:
            self._evict(held)

    def _continue(self, source: Held, length: int) -> Held | None:
        """Go on in an idle sequence's own cells if nearly all of it is used; a copy would only crowd the table."""
        if source.busy or (self._can_cut and len(source.tokens) - length > self._worth):
            return None
        return self._reuse(source, length)

    def _reuse(self, source: Held, length: int) -> Held:
        self._cut(source, length)
        source.busy = True
        self.table.touch(source)
        return source

    def _fresh(self, source: Held | None, length: int) -> tuple[Held | None, int]:
        """Take a new sequence id, sharing the prefix; evicts an idle sequence if all ids are taken."""
        if not self.table.has_free_id:
            victim = least_recently_used(held for held in self.table.held.values() if held is not source)
            if victim is None and source is not None and not source.busy:
                return self._reuse(source, length), length
            if victim is None:
                return None, 0
            self._give_up(victim)
        held = self.table.take()
        if source is not None and length:
            self._copy(source, held, length)
        return held, length

    def _follow(self, sequence: Sequence) -> None:
        """Let a new request wait for a running one that will compute a much longer common prefix first."""
        if not self._can_cut:
            return
        best = sequence.computed + self._worth
        for other in self.running:
            if other is sequence or other.leader is not None or not other.prefilling:
                continue
            shared = min(common_prefix(sequence.prompt, other.prompt, best), len(sequence.prompt) - 1)
            if shared > best and shared > other.computed:
                sequence.leader, best = other, shared

    def _share(self, sequence: Sequence) -> None:
        """Copy the common prefix once the leader has computed it."""
        leader, held = sequence.leader, sequence.held
        if leader is None or held is None or leader.held is None:
            return
        shared = min(common_prefix(sequence.prompt, leader.prompt), len(sequence.prompt) - 1)
        if leader.computed >= shared:
            self._cut(held, 0)
            self._copy(leader.held, held, shared)
            sequence.computed = sequence.cached = shared
            sequence.leader = None

    def _room_for(self, cells: int, source: Held | None) -> bool:
        """Whether there is room for a request's `cells` beside what runs, if all idle sequences were evicted."""
        kept = self.table.needed_by(held for held in self.table.held.values() if held.busy or held is source)
        unread = sum(max(len(sequence.prompt) - sequence.computed, 1) for sequence in self.running)
        return kept + unread + cells <= self.table.n_cells

    def _make_room(self, cells: int, sequence: Sequence) -> bool:
        """Free cells for one sequence's work: evict idle ones, then preempt the youngest; False if it was itself."""
        while self.table.free < cells:
            victim = least_recently_used(self.table.held.values())
            if victim is not None:
                self._give_up(victim)
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running request's cells; it goes back to the head of the queue and is read again later."""
        self.preemptions += 1
        held = sequence.held
        self._works.pop(sequence, None)
        self._stop(sequence)
        if held is not None and held.seq_id in self.table.held:
            self._cut(held, 0)
            self.table.give_back(held)
        sequence.computed = 0
        self.waiting.appendleft(sequence)

    def _stop(self, sequence: Sequence) -> None:
        """Take a request out of the running ones; its cells stay as an idle sequence, its followers look anew."""
        self.running.remove(sequence)
        held, sequence.held, sequence.leader = sequence.held, None, None
        if held is not None:
            if self._portion:
                whole = min(len(held.tokens), len(sequence.prompt))
                self._cut(held, whole - whole % self._portion)
            self._release(held)
        orphans = [other for other in self.running if other.leader is sequence]
        for other in orphans:
            other.leader = None
        for other in orphans:
            self._follow(other)

    def _release(self, held: Held) -> None:
        held.busy = False
        self.table.touch(held)
        if not held.tokens:
            self.table.give_back(held)

    def _give_up(self, held: Held) -> None:
        """Free an idle sequence's cells, keeping it in host memory if there is any."""
        if self.host.limit_bytes:
            self._stash(held)
        else:
            self._evict(held)

    def _evict(self, held: Held) -> None:
        self.evictions += 1
        self._cut(held, 0)
        self.table.give_back(held)

    def _cut(self, held: Held, length: int) -> None:
        if len(held.tokens) > length:
            self.table.cut(held, length)
            self._moves.append(Cut(held.seq_id, length))

    def _copy(self, source: Held, target: Held, length: int) -> None:
        self.table.copy(source, target, length)
        self._moves.append(Copy(source.seq_id, target.seq_id, length))


def _unread(sequence: Sequence) -> int:
    return len(sequence.prompt) - sequence.computed

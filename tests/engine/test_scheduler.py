"""What the scheduler plans: who goes first, what is shared, what is given up."""

from __future__ import annotations

from localllm.engine.budget import FixedBudget
from localllm.engine.cells import CellTable
from localllm.engine.kv_cache import KvCache
from localllm.engine.plan import Copy, StepPlan
from localllm.engine.scheduler import Scheduler
from localllm.engine.sequence import Sequence

from .arrays import tokens


def make(
    *, cells: int = 1000, sequences: int = 8, parallel: int = 4, chunk: int = 16, portion: int = 0, host_bytes: int = 0
) -> Scheduler:
    """Return a scheduler over an empty context."""
    cache = KvCache(CellTable(cells, sequences), portion=portion, host_bytes=host_bytes)
    return Scheduler(cache, FixedBudget(portion or chunk), parallel, portion=portion)


def request(*prompt: int, max_new: int = 10, preload: bool = False) -> Sequence:
    """Return a request."""
    return Sequence(tokens(*prompt), max_new=max_new, preload=preload)


def run(scheduler: Scheduler, steps: int = 1) -> StepPlan:
    """Plan some steps, giving every sequence that asks for logits the token 1; return the last plan."""
    plan = scheduler.plan()
    for _ in range(steps - 1):
        for sequence, work in zip(plan.sequences, plan.works, strict=True):
            if work.sample:
                sequence.append(1)
        plan = scheduler.plan()
    return plan


def test_streaming_sequences_come_first_and_get_one_token_each() -> None:
    """Beside a prompt that is read, each stream has one token in the step, before the prompt's portion."""
    scheduler = make()
    first, second = request(1, 2), request(3, 4)
    scheduler.submit(first)
    scheduler.submit(second)
    run(scheduler, 2)
    first.append(1)
    second.append(1)
    scheduler.submit(request(*range(100, 150)))
    plan = scheduler.plan()
    assert [len(work.tokens) for work in plan.works] == [1, 1, 16]
    assert plan.decoding == 2
    assert plan.prefilled == 16


def test_prompts_share_the_budget_fairly() -> None:
    """Two long prompts get half each; what a short one leaves goes to the other."""
    scheduler = make()
    scheduler.submit(request(*range(100, 200)))
    scheduler.submit(request(*range(200, 300)))
    assert [len(work.tokens) for work in scheduler.plan().works] == [8, 8]
    scheduler.submit(request(5, 6))
    assert sorted(len(work.tokens) for work in scheduler.plan().works) == [2, 7, 7]


def test_requests_that_arrive_together_read_a_common_prefix_once() -> None:
    """Followers wait for the first to compute the prefix, then copy it and read only their own ends."""
    scheduler = make()
    common = list(range(1, 65))
    requests = [request(*common, 100 + index, 200) for index in range(4)]
    for one in requests:
        scheduler.submit(one)
    computed = 0
    while any(one.prefilling for one in requests):
        plan = run(scheduler)
        computed += plan.prefilled
    assert computed == 64 + 4 * 2
    assert [one.cached for one in requests] == [0, 64, 64, 64]


def test_when_a_leader_is_cancelled_its_followers_find_a_new_one() -> None:
    """The prefix is still read once by those that are left."""
    scheduler = make()
    common = list(range(1, 65))
    requests = [request(*common, 100 + index) for index in range(3)]
    for one in requests:
        scheduler.submit(one)
    run(scheduler)
    scheduler.finish(requests[0])
    computed = 0
    while any(one.prefilling for one in requests[1:]):
        computed += run(scheduler).prefilled
    assert computed <= 64 + 2


def test_a_second_turn_goes_on_in_its_own_cells() -> None:
    """No copy is made, and only the new tokens are read."""
    scheduler = make()
    first = request(1, 2, 3)
    scheduler.submit(first)
    run(scheduler, 3)
    scheduler.finish(first)
    second = request(*first.tokens[: first.computed], 7, 8)
    scheduler.submit(second)
    plan = scheduler.plan()
    assert not plan.moves
    assert list(plan.works[0].tokens) == [7, 8]


def test_a_fork_copies_from_a_running_sequence() -> None:
    """The prefix of a busy sequence is shared without being computed again."""
    scheduler = make(chunk=64)
    first = request(*range(1, 50))
    scheduler.submit(first)
    run(scheduler)
    scheduler.submit(request(*range(1, 50), 99))
    plan = scheduler.plan()
    assert plan.moves == (Copy(0, 1, 49),)
    assert list(plan.works[-1].tokens) == [99]


def test_idle_sequences_are_evicted_before_anybody_is_preempted() -> None:
    """Room is made by giving up what was used longest ago."""
    scheduler = make(cells=64, chunk=64)
    old = request(*range(100, 130))
    scheduler.submit(old)
    run(scheduler)
    scheduler.finish(old)
    scheduler.submit(request(*range(200, 250)))
    run(scheduler)
    assert scheduler.cache.evictions == 1
    assert scheduler.preemptions == 0


def test_nothing_is_read_before_idle_sequences_have_left() -> None:
    """Else it lay behind them, and attention looks at all cells up to the last one in use for as long as it lives."""
    scheduler = make(chunk=1000, host_bytes=1 << 20)
    long = request(*range(1000, 1700))
    scheduler.submit(long)
    run(scheduler)
    scheduler.finish(long)
    scheduler.submit(request(1, 2, 3))
    assert run(scheduler).works == ()
    (held,) = scheduler.cache.leaving
    scheduler.cache.leave(held)
    assert [len(work.tokens) for work in run(scheduler).works] == [3]
    assert scheduler.cache.table.used == 3


def test_somebody_who_streams_does_not_wait_for_idle_sequences() -> None:
    """They leave meanwhile."""
    scheduler = make(chunk=1000, host_bytes=1 << 20)
    streaming, long = request(1, 2, 3), request(*range(1000, 1700))
    scheduler.submit(streaming)
    scheduler.submit(long)
    run(scheduler)
    scheduler.finish(long)
    streaming.append(1)
    plan = scheduler.plan()
    assert (len(plan.works), plan.decoding) == (1, 1)
    assert scheduler.cache.leaving


def test_the_youngest_is_preempted_and_the_oldest_never() -> None:
    """Two that fit alone and not together: the first to come is the first to end."""
    scheduler = make(cells=40, chunk=64)
    first, second = request(*range(100, 112), max_new=28), request(*range(200, 212), max_new=28)
    scheduler.submit(first)
    scheduler.submit(second)
    plan = scheduler.plan()
    while first.generated < first.max_new:
        assert first in scheduler.running
        for sequence, work in zip(plan.sequences, plan.works, strict=True):
            if work.sample:
                sequence.append(1)
        plan = scheduler.plan()
    assert scheduler.preemptions >= 1
    assert second in scheduler.waiting


def test_a_replay_reads_generated_tokens_one_by_one() -> None:
    """After a lost context the prompt is read in portions, then each generated token by itself, unsampled."""
    scheduler = make()
    one = request(1, 2, 3)
    scheduler.submit(one)
    run(scheduler, 4)
    generated = one.generated
    scheduler.forget()
    assert len(scheduler.plan().works[0].tokens) == 3
    for index in range(generated):
        work = scheduler.plan().works[0]
        assert len(work.tokens) == 1
        assert work.sample == (index == generated - 1)


def test_a_preload_waits_behind_replies_and_gives_its_place_to_them() -> None:
    """With one place, a reply that arrives takes it at once; what the preload read stays cached."""
    scheduler = make(parallel=1)
    preload = request(*range(1, 60), preload=True)
    scheduler.submit(preload)
    run(scheduler)
    reply = request(*range(1, 10), 500)
    scheduler.submit(reply)
    plan = scheduler.plan()
    assert plan.sequences == (reply,)
    assert reply.cached == 9
    assert preload in scheduler.waiting


def test_what_runs_in_the_background_gives_its_place_and_its_cells_first() -> None:
    """To a reply that has no place, and to one that lacks cells though it is younger; then it goes on where it was."""
    scheduler = make(parallel=1)
    guess = Sequence(tokens(*range(1, 20)), max_new=10, background=True)
    scheduler.submit(guess)
    run(scheduler)
    guess.append(5)
    reply = request(*range(50, 60))
    scheduler.submit(reply)
    assert scheduler.plan().sequences == (reply,)
    scheduler.finish(reply)
    assert scheduler.plan().sequences == (guess,)
    assert guess.generated == 1

    scheduler = make(cells=40, parallel=2)
    guess = Sequence(tokens(*range(1, 20)), max_new=10, background=True)
    for sequence in (guess, request(*range(50, 65), max_new=20)):
        scheduler.submit(sequence)
    while not scheduler.preemptions:
        for sequence in run(scheduler).sequences:
            sequence.append(7)
    assert list(scheduler.waiting) == [guess]


def test_deterministic_prompts_are_read_and_reused_in_whole_portions_only() -> None:
    """Whatever was cached, each portion begins at a multiple and holds the same tokens as without a cache."""
    scheduler = make(sequences=1, parallel=1, portion=16)
    first = request(*range(1, 51))
    scheduler.submit(first)
    sizes = []
    while first.prefilling:
        sizes.append(len(run(scheduler).works[0].tokens))
    assert sizes == [16, 16, 16, 2]
    scheduler.finish(first)
    second = request(*range(1, 46), 99, 98)
    scheduler.submit(second)
    plan = scheduler.plan()
    assert second.cached == 32
    assert plan.works[0].start == 32


def test_a_request_that_ends_is_no_longer_one_without_room() -> None:
    """Cancelled before it was told so, it must not be ended a second time."""
    scheduler = make()
    sequence = request(1, 2, 3)
    scheduler.submit(sequence)
    run(scheduler)
    scheduler.unservable.append(sequence)
    scheduler.finish(sequence)
    assert not scheduler.unservable

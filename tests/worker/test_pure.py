"""The decisions of a supervisor, without any worker: what is frozen, what is late, when to start again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.worker.deadlines import Waiting, overdue
from localllm.backends.worker.liveness import TICKS, Liveness
from localllm.backends.worker.obituary import how, obituary, own_copy, signal_name
from localllm.backends.worker.process import Activity
from localllm.backends.worker.restarts import COOL_DOWN_S, LIMIT, LONGEST_DELAY_S, Restarts
from localllm.errors import (
    ContextOverflowError,
    FirstTokenTimeoutError,
    ReplyTimeoutError,
    TokenTimeoutError,
    WorkerCrashedError,
    WorkerMemoryError,
)
from localllm.options import Timeouts


def _watch(limit_s: float, activities: list[Activity | None], *, heard_s: float = 0.0) -> float | None:
    """Look as often as one should; return when the worker was found frozen."""
    liveness, tick_s = Liveness(limit_s), limit_s / TICKS
    for count, seen in enumerate(activities):
        now_s = count * tick_s
        if liveness.is_silent(now_s, heard_s) and liveness.is_frozen(seen):
            return now_s
    return None


@given(st.floats(0.5, 60))
def test_a_stopped_process_is_found_within_the_limit(limit_s: float) -> None:
    """Whatever the limit; and not long before it."""
    found_s = _watch(limit_s, [Activity("T", 100)] * 30)
    assert found_s is not None
    assert 0.5 * limit_s < found_s <= limit_s


def test_one_that_computes_is_busy() -> None:
    """However long it is silent."""
    assert _watch(1.0, [Activity("S", ticks) for ticks in range(100)]) is None


def test_one_that_is_left_without_a_processor_is_busy() -> None:
    """On a machine with more to do than it can, that is not the worker's fault."""
    assert _watch(1.0, [Activity("R", 7)] * 100) is None


def test_one_that_waits_for_a_disk_is_busy() -> None:
    """Nobody can stop it anyhow."""
    assert _watch(1.0, [Activity("D", 7)] * 100) is None


def test_where_the_system_says_nothing_silence_is_enough() -> None:
    """As on macOS and Windows."""
    assert _watch(1.0, [None] * 30) is not None


def test_a_parent_that_was_away_gives_the_worker_time() -> None:
    """Both were stopped, or the machine slept: the worker may speak first."""
    liveness = Liveness(1.0)
    assert not liveness.is_silent(0.0, 0.0)
    assert not liveness.is_silent(100.0, 0.0)
    assert not liveness.is_silent(100.4, 0.0)
    assert liveness.is_silent(100.8, 0.0)


@given(st.lists(st.booleans(), max_size=60))
def test_restarts_are_spaced_and_limited(crashes: list[bool]) -> None:
    """Each in a row waits twice as long as the one before; a token starts the row anew; after some it is enough."""
    restarts, row = Restarts(), 0
    for crash in crashes:
        if not crash:
            restarts.delivered()
            row = 0
            assert not restarts.given_up
            continue
        row += 1
        delay_s = restarts.crashed()
        assert restarts.given_up == (row > LIMIT)
        assert delay_s == COOL_DOWN_S if row > LIMIT else delay_s == min(0.05 * 2 ** (row - 1), LONGEST_DELAY_S)
    assert restarts.total == sum(crashes)
    assert restarts.in_a_row == row


LIMITS = Timeouts(first_token_s=10, between_tokens_s=5, reply_s=30, close_s=2)


@pytest.mark.parametrize(
    ("waiting", "now_s", "kind"),
    [
        (Waiting(submitted_s=0), 10, None),
        (Waiting(submitted_s=0), 10.1, FirstTokenTimeoutError),
        (Waiting(submitted_s=0, other_s=8), 17, None),
        (Waiting(submitted_s=0, other_s=8), 18.1, FirstTokenTimeoutError),
        (Waiting(submitted_s=0, begun_s=3, other_s=12), 13.1, FirstTokenTimeoutError),
        (Waiting(submitted_s=0, begun_s=3, token_s=9), 14, None),
        (Waiting(submitted_s=0, begun_s=3, token_s=9, other_s=14), 14.1, TokenTimeoutError),
        (Waiting(submitted_s=0, begun_s=3, token_s=29), 30.1, ReplyTimeoutError),
        (Waiting(submitted_s=0, begun_s=3, token_s=29, own_limit_s=31), 30.1, None),
        (Waiting(submitted_s=0, begun_s=3, token_s=33, own_limit_s=31), 33.1, ReplyTimeoutError),
    ],
)
def test_what_is_overdue(waiting: Waiting, now_s: float, kind: type[Exception] | None) -> None:
    """Each limit counts from its own moment; one that waits for others counts from their last sign of life."""
    assert type(overdue(waiting, LIMITS, now_s)) is (kind or type(None))


@given(st.floats(0, 1e9))
def test_without_limits_nothing_is_overdue(now_s: float) -> None:
    """None is no limit."""
    none = Timeouts(first_token_s=None, between_tokens_s=None, reply_s=None)
    assert overdue(Waiting(submitted_s=0), none, now_s) is None
    assert overdue(Waiting(submitted_s=0, begun_s=1, token_s=1), none, now_s) is None


@pytest.mark.parametrize(
    ("code", "says", "name"),
    [
        (-11, "SIGSEGV, segmentation fault", "SIGSEGV"),
        (-6, "SIGABRT, aborted", "SIGABRT"),
        (-9, "SIGKILL, killed", "SIGKILL"),
        (3, "exit code 3", ""),
        (0xC0000005, "exception 0xC0000005", ""),
        (-4321, "signal 4321, unknown", "signal 4321"),
    ],
)
def test_an_exit_code_in_words(code: int, says: str, name: str) -> None:
    """The signal's name, an exit code, or one of Windows's exceptions."""
    assert signal_name(code) == name
    assert how(code) == says


def test_an_obituary_says_what_is_known() -> None:
    """What it did, how it ended, what it wrote last, and what to do."""
    error = obituary(doing="loading 'x'", pid=7, code=-6, lines=("GGML_ASSERT(a > b) failed",), pending_bytes=3)
    for part in ("pid 7", "while loading 'x'", "SIGABRT", "GGML_ASSERT(a > b) failed", "after 3 bytes", "next used"):
        assert part in str(error)
    assert (error.exit_code, error.signal_name, error.stderr) == (-6, "SIGABRT", ("GGML_ASSERT(a > b) failed",))


@pytest.mark.parametrize("line", ["terminate called after throwing 'std::bad_alloc'", "MemoryError"])
def test_an_end_for_want_of_memory_is_told_from_others(line: str) -> None:
    """If there is a limit, and the last lines speak of memory."""
    assert type(obituary(doing="x", pid=1, code=-6, lines=(line,))) is WorkerCrashedError
    short = obituary(doing="x", pid=1, code=-6, lines=(line,), memory_limit_bytes=1000)
    assert type(short) is WorkerMemoryError
    assert "raise memory_limit_bytes" in str(short)


def test_two_callers_get_two_errors() -> None:
    """So that each can have its own reply."""
    error = WorkerCrashedError("x", exit_code=1, signal_name="S", stderr=("line",))
    copy = own_copy(error)
    assert copy is not error
    assert vars(copy) == vars(error)
    overflow = own_copy(ContextOverflowError("x", prompt_tokens=3, context_tokens=2))
    assert isinstance(overflow, ContextOverflowError)
    assert overflow.prompt_tokens == 3

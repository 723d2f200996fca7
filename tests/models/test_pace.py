"""Trying again, waiting, cancelling and telling how far it is: on clocks of the tests' own."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import ConnectionLostError, DownloadCancelledError
from localllm.models.cancel import Cancellation
from localllm.models.progress import EVENTS_PER_S, Meter, PullProgress, Rate
from localllm.models.retry import ENOUGH_PROGRESS_BYTES, RetryPolicy, TryAgain, retry_after_s, retrying
from tests.models.fetching import FakeTime, Log


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_a_limit_less_some_chance(failures: int, dice: float) -> None:
    """Between half of it and all."""
    policy = RetryPolicy(first_wait_s=0.5, longest_wait_s=30)
    full = min(30.0, 0.5 * 2 ** (failures - 1))
    assert full / 2 <= policy.wait_s(failures, dice) <= full


@pytest.mark.parametrize(
    ("value", "now", "seconds"),
    [
        ("17", "", 17.0),
        (" 0 ", "", 0.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:30 GMT", "", None),
        ("", "", None),
        ("-5", "", None),
        ("soon", "", None),
        ("²", "", None),
    ],
)
def test_a_wish_to_wait_is_read(value: str, now: str, seconds: float | None) -> None:
    """Seconds, or a date by the server's own clock."""
    assert retry_after_s(value, now) == seconds


def run(gains: list[int], retries: int) -> int:
    """Fail once for each of `gains`, then succeed; return how many attempts that took."""
    left, attempts = list(gains), 0

    def attempt() -> int:
        nonlocal attempts
        attempts += 1
        if left:
            raise TryAgain(ConnectionLostError("cut"), gained_bytes=left.pop(0))
        return attempts

    time = FakeTime()
    return retrying(
        attempt,
        policy=RetryPolicy(retries=retries),
        timing=time.timing,
        cancel=Cancellation(),
        on_wait=lambda error, wait_s: None,
    )


@given(st.integers(0, 5), st.integers(0, 10))
def test_failures_in_a_row_are_limited(retries: int, failures: int) -> None:
    """As many as the policy says, and not one more."""
    if failures <= retries:
        assert run([0] * failures, retries) == failures + 1
    else:
        with pytest.raises(ConnectionLostError, match="cut"):
            run([0] * failures, retries)


def test_failures_after_progress_are_not_in_a_row() -> None:
    """Each megabyte starts the count anew."""
    assert run([ENOUGH_PROGRESS_BYTES] * 50, 1) == 51


def test_a_cancelled_wait_ends_at_once() -> None:
    """On the real clock; whoever waits with the same cancellation, too."""
    cancel, ended = Cancellation(), []

    def wait() -> None:
        with pytest.raises(DownloadCancelledError):
            cancel.wait(60)
        ended.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    cancel.cancel()
    for thread in threads:
        thread.join(10)
    assert ended == [True] * 3
    with pytest.raises(DownloadCancelledError):
        cancel.wait(0)


def test_a_wait_that_is_not_cancelled_passes() -> None:
    """And leaves no trace."""
    cancel = Cancellation()
    cancel.wait(0.001)
    cancel.check()


def test_what_is_registered_late_is_stopped_at_once() -> None:
    """A cancel between two steps is not lost."""
    cancel, stopped = Cancellation(), []
    cancel.cancel()
    with cancel.stopping(lambda: stopped.append(1)):
        assert stopped == [1]


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=200))
def test_events_come_ten_a_second_at_most(gaps: list[float]) -> None:
    """Whatever the data's pace; a new phase is told at once; the last event has everything."""
    time, log = FakeTime(), Log()
    meter = Meter("x", now=lambda: time.now_s, callback=log, cancel=Cancellation())
    meter.enter("downloading")
    for number, gap in enumerate(gaps, start=1):
        time.now_s += gap
        meter.at(number)
    assert len(log.events) - 1 <= sum(gaps) * EVENTS_PER_S + 1e-6
    meter.enter("done")
    assert log.events[-1].done_bytes == len(gaps)


def test_rate_and_time_left_follow_the_last_seconds() -> None:
    """A slow beginning is forgotten."""
    time, log = FakeTime(), Log()
    meter = Meter("x", now=lambda: time.now_s, callback=log, cancel=Cancellation())
    meter.start_file("a", 0, 10_000)
    meter.enter("downloading")
    for done in (10, 20, 30, 1030, 2030, 3030, 4030, 5030, 6030):
        time.now_s += 1
        meter.at(done)
    last = log.events[-1]
    assert last.rate_bytes_per_s == pytest.approx(1000)
    assert last.time_left_s == pytest.approx(3.97)
    meter.enter("retrying", "cut")
    assert log.events[-1].rate_bytes_per_s is None


def test_a_rate_needs_two_moments() -> None:
    """And is never negative."""
    rate = Rate()
    assert rate.add(0, 5) is None
    assert rate.add(0, 6) is None
    assert rate.add(1, 3) == 0


def test_what_the_callback_raises_is_kept_and_cancels() -> None:
    """It is told nothing more."""
    cancel, told = Cancellation(), []

    def fail(progress: PullProgress) -> None:
        told.append(progress)
        raise KeyboardInterrupt

    meter = Meter("x", now=lambda: 0.0, callback=fail, cancel=cancel)
    meter.enter("downloading")
    meter.enter("done")
    assert isinstance(meter.failure, KeyboardInterrupt)
    assert cancel.cancelled
    assert len(told) == 1

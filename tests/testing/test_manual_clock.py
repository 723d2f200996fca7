"""ManualClock: time stands still until a test moves it."""

from __future__ import annotations

import math
import threading

import pytest

from localllm.backends.clock import Bell, SystemClock
from localllm.errors import InvalidOptionError
from localllm.testing import ManualClock


def waiting(clock: ManualClock, until_s: float, bell: Bell | None = None) -> threading.Thread:
    """A thread that waits on `clock`."""
    thread = threading.Thread(target=clock.wait, args=(bell or Bell(), until_s), daemon=True)
    thread.start()
    return thread


def test_it_wakes_those_whose_moment_has_come_and_no_others() -> None:
    clock = ManualClock(100.0)
    soon, late = waiting(clock, 101.0), waiting(clock, 105.0)
    clock.wait_until_blocked(2)
    clock.advance(1.5)
    soon.join(10)
    clock.wait_until_blocked(1)
    assert late.is_alive()
    assert clock.now() == 101.5
    clock.advance(3.5)
    late.join(10)
    assert not late.is_alive()


def test_a_wait_for_a_moment_that_has_come_returns_at_once() -> None:
    ManualClock(5.0).wait(Bell(), 5.0)


def test_a_bell_ends_a_wait_and_the_time_stays() -> None:
    clock, bell = ManualClock(), Bell()
    thread = waiting(clock, math.inf, bell)
    bell.ring()
    thread.join(10)
    assert not thread.is_alive()
    assert clock.now() == 0


def test_a_thread_that_was_rung_for_does_not_count_as_blocked_before_it_has_waited_again() -> None:
    clock, bell = ManualClock(), Bell()
    woken, may_wait = threading.Event(), threading.Event()

    def wait_twice() -> None:
        clock.wait(bell, 10.0)
        woken.set()
        may_wait.wait(10)
        clock.wait(bell, 20.0)

    thread = threading.Thread(target=wait_twice, daemon=True)
    thread.start()
    clock.wait_until_blocked()
    bell.ring()
    with pytest.raises(TimeoutError):
        clock.wait_until_blocked(within_s=0.05)
    assert woken.wait(10)
    may_wait.set()
    clock.wait_until_blocked()
    clock.advance(20)
    thread.join(10)
    assert not thread.is_alive()


def test_rings_before_a_wait_are_one() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    bell.wait()
    bell.wait(0.001)  # would return at once, too, but must not have a ring left
    assert bell._rings.empty()


def test_it_moves_itself_to_the_end_of_every_wait_if_told_to() -> None:
    clock = ManualClock(auto_advance=True)
    clock.wait(Bell(), 3600.0)
    clock.wait(Bell(), 60.0)
    assert clock.now() == 3600.0


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_it_does_not_go_back(seconds: float) -> None:
    with pytest.raises(InvalidOptionError, match="0 seconds or more"):
        ManualClock().advance(seconds)


def test_waiting_for_threads_that_do_not_come_gives_up_and_says_how_many_came() -> None:
    clock = ManualClock()
    waiting(clock, 1.0)
    with pytest.raises(TimeoutError, match="1 threads wait for the clock, not 2"):
        clock.wait_until_blocked(2, within_s=0.05)
    clock.advance(1.0)


def test_the_system_clock_goes_on_and_its_waits_end() -> None:
    clock = SystemClock()
    began_s = clock.now()
    clock.wait(Bell(), began_s + 0.01)
    clock.wait(Bell(), began_s - 1)
    assert clock.now() >= began_s + 0.01
    bell = Bell()
    bell.ring()
    clock.wait(bell, math.inf)

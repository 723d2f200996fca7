"""Trying again: how often, how long to wait in between, and what a server's wish to wait means."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from random import random
from typing import TypeVar

from attrs import field, frozen

from localllm.errors import DownloadError, InvalidOptionError, RateLimitedError
from localllm.models.cancel import Cancellation

T = TypeVar("T")

ENOUGH_PROGRESS_BYTES = 1024 * 1024
"""After so many new bytes a failure counts as the first one again: a long download may break often."""


@frozen
class Timing:
    """Time, for tests to replace.

    Args:
        now: Seconds since some fixed moment.
        wait: Lets seconds pass, unless cancelled.
        random: A number from 0 up to 1.
    """

    now: Callable[[], float] = time.monotonic
    wait: Callable[[Cancellation, float], None] = Cancellation.wait
    random: Callable[[], float] = random


def _not_negative(instance: object, attribute: object, value: float) -> None:
    if not value >= 0:
        raise InvalidOptionError(f"{getattr(attribute, 'name', '')} must be 0 or more; got {value!r:.80}")


@frozen(kw_only=True)
class RetryPolicy:
    """How failures are met.

    Args:
        retries: Failures in a row, without a megabyte of progress in between, after which to try again.
        first_wait_s: Seconds before the first new try; doubled each time.
        longest_wait_s: Seconds between two tries at most.
        longest_asked_wait_s: Seconds that a server may ask us to wait; more is an error at once.
    """

    retries: int = field(default=5, validator=_not_negative)
    first_wait_s: float = field(default=0.5, validator=_not_negative)
    longest_wait_s: float = field(default=30.0, validator=_not_negative)
    longest_asked_wait_s: float = field(default=300.0, validator=_not_negative)

    def wait_s(self, failures: int, dice: float) -> float:
        """Return how long to wait after so many failures: doubled each time, less up to a half by chance.

        Args:
            failures: In a row, from 1.
            dice: A number from 0 up to 1, so that many clients do not come back at the same moment.
        """
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30)) * (1 - dice / 2)


class TryAgain(Exception):
    """An attempt failed in a way that another one may not; never leaves `models`.

    Args:
        error: What is raised when there is no other attempt.
        asked_wait_s: Seconds that the server asked us to wait.
        gained_bytes: New bytes that the attempt brought all the same.
        at_once: There is no reason to wait.
    """

    def __init__(
        self, error: DownloadError, *, asked_wait_s: float | None = None, gained_bytes: int = 0, at_once: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.asked_wait_s = asked_wait_s
        self.gained_bytes = gained_bytes
        self.at_once = at_once


def retrying(
    attempt: Callable[[], T],
    *,
    policy: RetryPolicy,
    timing: Timing,
    cancel: Cancellation,
    on_wait: Callable[[DownloadError, float], None],
) -> T:
    """Return what `attempt` returns, trying again as often as `policy` allows.

    Args:
        attempt: Raises TryAgain when it may be tried again.
        policy: How often.
        timing: Waits.
        cancel: Ends the waiting.
        on_wait: Told why and for how many seconds we wait, so that nothing is tried again in silence.

    Raises:
        DownloadError: What the last attempt failed with.
    """
    failures = 0
    while True:
        cancel.check()
        try:
            return attempt()
        except TryAgain as again:
            cancel.check()  # a connection that a cancel broke looks like one that broke by itself
            failures = 1 if again.gained_bytes >= ENOUGH_PROGRESS_BYTES else failures + 1
            if failures > policy.retries:
                raise _final(again.error, failures) from again.error.__cause__
            wait_s = 0.0 if again.at_once else policy.wait_s(failures, timing.random())
            if again.asked_wait_s is not None:
                wait_s = max(wait_s, again.asked_wait_s)
            if wait_s > max(policy.longest_asked_wait_s, policy.longest_wait_s):
                raise RateLimitedError(
                    f"{again.error}; the server asks to wait {wait_s:.0f} s, longer than we do: try again later"
                ) from again.error
            on_wait(again.error, wait_s)
            if wait_s:
                timing.wait(cancel, wait_s)


def retry_after_s(value: str, now: str) -> float | None:
    """Return the seconds that a `Retry-After` header means.

    Args:
        value: The header: seconds or a date.
        now: The answer's `Date` header, by the server's own clock.

    Returns:
        Seconds from 0; None if it is no such header.
    """
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:12])
    try:
        return max(0.0, (parsedate_to_datetime(value) - parsedate_to_datetime(now)).total_seconds())
    except (TypeError, ValueError):
        return None


def _final(error: DownloadError, failures: int) -> DownloadError:
    """Return `error` with how often it was tried."""
    return type(error)(f"{error} (tried {failures} times)") if failures > 1 else error

"""For tests: of applications, with a clock that is moved by hand, and of backends, with the suite they must pass.

`FakeBackend` and `FakeReply`, with which an application is tested, are in `localllm` itself. Here are

- `ManualClock`, for tests of delays and time-outs that do not wait;
- `check_backend`, which holds a backend of your own to the rules of `localllm.backends.base`, and `backend_checks`,
  the same check by check, for a test runner;
- `collect` and `EventLog`, to talk to a backend directly.

Nothing here needs a test framework.
"""

from __future__ import annotations

from localllm.errors import ConformanceError
from localllm.testing.clock import ManualClock
from localllm.testing.conformance import Check, backend_checks, check_backend
from localllm.testing.events import Collected, EventLog, collect

__all__ = [
    "Check",
    "Collected",
    "ConformanceError",
    "EventLog",
    "ManualClock",
    "backend_checks",
    "check_backend",
    "collect",
]

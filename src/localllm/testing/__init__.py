"""For tests: of applications, with a scripted or a recorded model, and of backends, with the suite they must pass.

`FakeBackend` and `FakeReply`, with which an application is tested, are in `localllm` itself, and so are
`RecordingBackend` and `ReplayBackend`. Here are

- `FakeLLM` and `LLMCassette`, what the pytest fixtures `fake_llm` and `llm_cassette` are; they come with localllm,
  there is nothing to import or to configure (`docs/testing.md`);
- `ManualClock`, for tests of delays and time-outs that do not wait;
- `check_backend`, which holds a backend of your own to the rules of `localllm.backends.base`, and `backend_checks`,
  the same check by check, for a test runner;
- `collect` and `EventLog`, to talk to a backend directly.

Only `localllm.testing.plugin` needs a test framework. Each name is loaded when it is first used: pytest imports the
plugin, and with it this package, in every run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localllm.errors import ConformanceError
    from localllm.testing.clock import ManualClock
    from localllm.testing.conformance import Check, backend_checks, check_backend
    from localllm.testing.events import Collected, EventLog, collect
    from localllm.testing.fixtures import FakeLLM, LLMCassette, RecordMode

__all__ = [
    "Check",
    "Collected",
    "ConformanceError",
    "EventLog",
    "FakeLLM",
    "LLMCassette",
    "ManualClock",
    "RecordMode",
    "backend_checks",
    "check_backend",
    "collect",
]

_NAMES_OF = {
    "localllm.errors": "ConformanceError",
    "localllm.testing.clock": "ManualClock",
    "localllm.testing.conformance": "Check backend_checks check_backend",
    "localllm.testing.events": "Collected EventLog collect",
    "localllm.testing.fixtures": "FakeLLM LLMCassette RecordMode",
}

_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker that saw this would believe that every name exists

    def __getattr__(name):
        """Load a public name when it is first used (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

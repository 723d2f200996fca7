"""The pytest plugin: the fixtures `fake_llm` and `llm_cassette`, and the option `--llm-record`.

pytest imports this in every run of everybody who has localllm installed, so that it loads nothing of localllm before
a fixture is used. `docs/testing.md` shows how it is used.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from localllm.backends.base import Backend
    from localllm.testing.fixtures import FakeLLM, LLMCassette, RecordMode

_MODES = ("none", "once", "new", "all")
_OPTION = "--llm-record"
_LONGEST = 100  # characters of a file's name; some systems take 143, and its folders' names count on others
_UNSAFE = re.compile(r"[^\w.\[\]-]", re.ASCII)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--llm-record`."""
    parser.getgroup("localllm").addoption(
        _OPTION,
        choices=_MODES,
        default="none",
        help="what llm_cassette does: play the cassette (none, the default); record it where there is none (once); "
        "record what it lacks (new); record all of it anew (all)",
    )


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that this run records; a run that only plays says nothing."""
    mode = _mode(config)
    return None if mode == "none" else f"localllm: cassettes are recorded ({_OPTION}={mode})"


@pytest.fixture
def fake_llm() -> Iterator[FakeLLM]:
    """Models with scripted replies: `model = fake_llm("Hello!", "Goodbye!")`; see localllm.testing.FakeLLM."""
    from localllm.testing.fixtures import FakeLLM

    with FakeLLM() as fake:
        yield fake


@pytest.fixture(scope="session")
def llm_backend() -> Backend | str | None:
    """What `llm_cassette` records: llama.cpp. Override it for another backend, by its name or as an instance."""
    return None


@pytest.fixture
def llm_cassette_path(request: pytest.FixtureRequest) -> Path:
    """Where `llm_cassette` is kept: cassettes/<module>/<test>.json beside the test. Override it for another place."""
    module = request.path
    return module.parent / "cassettes" / module.stem / f"{_file_name(request.node)}.json"


@pytest.fixture
def llm_cassette(request: pytest.FixtureRequest, llm_cassette_path: Path) -> Iterator[LLMCassette]:
    """A model's recorded replies: `model = llm_cassette.load("smollm2-135m")`; see localllm.testing.LLMCassette."""
    from localllm.testing.fixtures import LLMCassette

    def real_backend() -> Backend | str | None:  # asked for only where something is recorded
        return cast("Backend | str | None", request.getfixturevalue("llm_backend"))

    node = cast("pytest.Item", request.node)
    with LLMCassette(
        llm_cassette_path,
        mode=_mode(request.config),
        real_backend=real_backend,
        command=f"pytest {_OPTION}={{mode}} {shlex.quote(node.nodeid)}",
    ) as cassette:
        yield cassette


def _mode(config: pytest.Config) -> RecordMode:
    return cast("RecordMode", config.getoption(_OPTION))


def _file_name(node: pytest.Item) -> str:
    """Return a test's name as the name of a file: with its class and parameters, the same in every run."""
    parents = [parent.name for parent in node.listchain() if isinstance(parent, pytest.Class)]
    name = ".".join([*parents, node.name])
    safe = _UNSAFE.sub("-", name)
    if safe == name and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]  # what was lost may be what differs
    return f"{safe[: _LONGEST - 9]}-{digest}"

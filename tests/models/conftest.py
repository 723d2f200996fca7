"""Model files for the tests: tiny ones written here, the real one, and llama.cpp's vocabularies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from localllm.models.refs import resolve
from tests.models.layout import Document, take_apart
from tests.models.tiny import write_tiny_llama

_ASSETS = Path(__file__).parents[2] / ".cache" / "llama-assets"


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
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def vocabularies() -> list[Path]:
    """llama.cpp's files that hold a vocabulary only; LOCALLLM_ASSETS says where they are, if not in .cache."""
    folder = Path(os.environ.get("LOCALLLM_ASSETS") or _ASSETS)
    found = sorted(folder.rglob("ggml-vocab-*.gguf"))
    assert found, f"no vocabularies in {folder}: run `make assets`"
    return found

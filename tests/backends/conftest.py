"""Shared fixtures of the backends' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.backends.llamacpp.bindings import NativeModel


@pytest.fixture(scope="module")
def native(llama_assets: Path) -> Iterator[NativeModel]:
    """A vocabulary without weights, which has ChatML's control tokens."""
    model = NativeModel(llama_assets / "ggml-vocab-qwen2.gguf", vocab_only=True)
    yield model
    model.close()

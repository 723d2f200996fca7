"""Fixtures of the chat tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.chat.template import ChatTemplate
from tests.chat import huggingface
from tests.chat.vocab import LlamaVocabulary, load


@pytest.fixture(scope="session")
def vocabularies(llama_assets: Path, smollm2_path: Path) -> list[LlamaVocabulary]:
    """Every vocabulary that llama.cpp ships, and that of the small model."""
    return [load(path) for path in [*sorted(llama_assets.glob("*.gguf")), smollm2_path]]


@pytest.fixture(scope="session")
def by_name(vocabularies: list[LlamaVocabulary]) -> dict[str, LlamaVocabulary]:
    """The vocabularies by their short names."""
    return {vocabulary.name: vocabulary for vocabulary in vocabularies}


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> LlamaVocabulary:
    """The small model's vocabulary."""
    return load(smollm2_path)


@pytest.fixture(scope="session")
def templates(llama_assets: Path) -> dict[str, str]:
    """Every chat template that llama.cpp ships, by its name."""
    return {path.stem: path.read_text() for path in sorted(llama_assets.glob("templates/*.jinja"))}


@pytest.fixture(scope="session")
def compiled(templates: dict[str, str]) -> dict[str, ChatTemplate]:
    """The same, compiled, with a clock that stands still."""
    return {name: ChatTemplate(source, clock=lambda: huggingface.NOW) for name, source in templates.items()}

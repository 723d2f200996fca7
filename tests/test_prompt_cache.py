"""`ModelConfig(prompt_cache_dir=...)` with real models: the next start of an application finds its system prompt."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from attrs import evolve

from localllm import ChatSession, FakeBackend, ModelConfig, ModelManager, Reply
from localllm.engine.stats import ModelStats
from tests.kinds.peer import CONFIG
from tests.kinds.tiny_kinds import Kind, write_kind

MODEL = "smollm2-135m"
RULES = "Answer in one sentence. " + "The lighthouse keeper counts the ships that pass in the night. " * 21


def first_chat(
    config: ModelConfig | None, *, model: str | Path = MODEL, isolated: bool = False, system: str = RULES
) -> tuple[Reply, ModelStats]:
    """Start an application, ask something, and close it; return the reply and the model's figures."""
    with ModelManager(isolation="process" if isolated else "thread") as models:
        loaded = models.load(model, config=config)
        reply = ChatSession(loaded, system=system).send("What does he count?", temperature=0, max_tokens=12)
        return reply, loaded.stats()


def test_the_first_chat_of_the_next_start_begins_after_its_system_prompt(tmp_path: Path) -> None:
    """A worker takes what a thread has stored, and says the same; nothing that the user said is in the file."""
    config = ModelConfig(prompt_cache_dir=tmp_path / "prompts")
    stored, stats = first_chat(config)
    assert (stored.usage.cached_tokens, stats.disk_hits) == (0, 0)
    (path,) = tmp_path.rglob("*.prompt")
    assert path.stat().st_mode & 0o777 == 0o600

    found, stats = first_chat(config, isolated=True)
    assert (found.text, stats.disk_hits) == (stored.text, 1)
    assert 256 < found.usage.prompt_tokens - 20 < found.usage.cached_tokens < found.usage.prompt_tokens - 5


@pytest.mark.parametrize("kind", ["sliding", "hybrid"])
def test_models_of_other_kinds(tmp_path: Path, kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    """With a sliding window the same holds; where nothing can be cut it is said that nothing is stored."""
    model = write_kind(tmp_path / "tiny.gguf", kind)
    config = evolve(CONFIG, prompt_cache_dir=tmp_path / "prompts")
    system = "Count the ships, and then the waves. " * 10
    plain, _ = first_chat(CONFIG, model=model, system=system)
    with caplog.at_level(logging.WARNING, "localllm.prompts"):
        stored, _ = first_chat(config, model=model, system=system)
        found, stats = first_chat(config, model=model, system=system)
    assert plain.text == stored.text == found.text
    assert stats.disk_hits == (kind == "sliding")
    told = [record for record in caplog.records if record.name == "localllm.prompts"]
    assert len(told) == (0 if kind == "sliding" else 2)
    if kind == "sliding":
        assert found.usage.cached_tokens > found.usage.prompt_tokens - 60 > 256


def test_other_backends_take_no_notice(tmp_path: Path) -> None:
    """Nothing is written."""
    with ModelManager(FakeBackend(["Ships."])) as models:
        model = models.load("any", config=ModelConfig(prompt_cache_dir=tmp_path / "prompts"))
        assert ChatSession(model, system=RULES).send("What does he count?").text == "Ships."
    assert list(tmp_path.iterdir()) == []

"""`Model.render` shows and counts what a reply's prompt will be, tools included."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from attrs import evolve

from localllm import (
    AsyncModelManager,
    CassetteError,
    ChatSession,
    ContextOverflowError,
    FakeBackend,
    InvalidOptionError,
    LoadedModel,
    Message,
    ModelConfig,
    ModelManager,
    ModelSpec,
    ProgressCallback,
    RecordingBackend,
    RenderedPrompt,
    ReplayBackend,
    ToolDefinition,
    tool,
)
from localllm.backends.llamacpp.adapter import LlamaCppBackend
from localllm.tools.tool import Tools
from tests.backends import mutants

SMALL = ModelConfig(n_ctx=1024, threads=1)


def weather(city: str, days: int = 1) -> str:
    """Tell the weather.

    Args:
        city: Where.
        days: For how many days from now.
    """
    return f"{city}: fine"


async def news(topic: str) -> str:
    """Tell what is new."""
    return topic


GIVEN: Tools = [weather, ToolDefinition("clock", "Tell the time.")]


def agrees(models: ModelManager, ref: str = "any", config: ModelConfig = SMALL) -> tuple[int, int]:
    """Check that a reply's prompt has as many tokens as `render` says; return how many, without and with tools."""
    model = models.load(ref, config=config)
    counts: list[int] = []
    for tools in ((), GIVEN):
        chat = ChatSession(model, system="Be kind.", tools=tools, max_tokens=1, run_tools=False)
        usage = chat.send("What is the weather in Łódź?").usage
        rendered = model.render(chat.history[:2], tools=tools)
        assert len(rendered.tokens) == usage.prompt_tokens
        counts.append(usage.prompt_tokens)
    return counts[0], counts[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ModelManager(FakeBackend(["yes", "no"])),
        lambda: ModelManager("tests.worker.scripted:SlowFake"),
    ],
    ids=["fake", "worker"],
)
def test_a_fake_prompt_shows_no_tools(make: Callable[[], ModelManager]) -> None:
    """And counts none, in this process and in another."""
    with make() as models:
        without, given = agrees(models)
        assert without == given


def test_tools_that_the_system_message_tells_of_are_shown() -> None:
    """The small model's template knows of no tools; those of a session are told in words. Here from a worker."""
    with ModelManager() as models:
        without, given = agrees(models, "smollm2-135m")
        assert given > without + 50
        text = models.load("smollm2-135m", config=SMALL).render([Message.user("Hi")], tools=GIVEN).text
        for part in ("weather", "clock", "For how many days from now.", "Tell the time."):
            assert part in text


@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.2-3B-Instruct"])
def test_tools_that_the_template_takes_are_shown(name: str, llama_assets: Path) -> None:
    """As its authors meant it; told here by a refusal, which costs no reading."""
    source = (llama_assets / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
    with ModelManager(isolation="thread") as models:
        model = models.load("smollm2-135m", config=ModelConfig(n_ctx=64, chat_template=source))
        with pytest.raises(ContextOverflowError) as refused:
            ChatSession(model, tools=GIVEN).send("What is the weather?")
        prompt = model.render([Message.user("What is the weather?")], tools=GIVEN)
        assert len(prompt.tokens) == refused.value.prompt_tokens
        assert "For how many days from now." in prompt.text


def test_a_model_without_a_template_takes_no_tools() -> None:
    """As in a session."""
    with ModelManager(isolation="thread") as models:
        model = models.load("smollm2-135m", config=evolve(SMALL, chat_template="none"))
        with pytest.raises(InvalidOptionError, match="tools need a chat template"):
            model.render([Message.user("Once")], tools=GIVEN)


def test_prompts_with_tools_are_recorded_apart(tmp_path: Path) -> None:
    """A replay has the prompts with the tools that it was recorded with, and no others."""
    path = tmp_path / "tape.json"
    hi = [Message.user("Hi")]

    def shown(models: ModelManager) -> list[RenderedPrompt]:
        model = models.load("smollm2-135m", config=SMALL)
        return [model.render(hi), model.render(hi, tools=GIVEN), model.render(hi, tools=[weather])]

    with ModelManager(RecordingBackend(LlamaCppBackend(), path)) as models:
        recorded = shown(models)
    with ModelManager(ReplayBackend(path)) as models:
        assert shown(models) == recorded
        with pytest.raises(CassetteError, match="render"):
            models.load("smollm2-135m", config=SMALL).render(hi, tools=[tool(weather, name="other")])
    assert len({prompt.text for prompt in recorded}) == 3


def test_a_backend_need_not_know_of_tools() -> None:
    """Its `render` is given them only where there are some."""

    class Plain(mutants.Wrapped):
        def render(self, messages: Sequence[Message]) -> RenderedPrompt:  # type: ignore[override]
            return self.inner.render(messages)

    class Backend(FakeBackend):
        def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:  # type: ignore[override]
            return Plain(super().load(spec, on_progress))

    with ModelManager(Backend([])) as models:
        assert "Hi" in models.load("any").render([Message.user("Hi")]).text


def test_what_is_no_tool_is_refused() -> None:
    """As by a session; but coroutine functions may be shown, for nobody calls them."""
    with ModelManager(FakeBackend([])) as models:
        model = models.load("any")
        model.render([Message.user("Hi")], tools=[news])
        for wrong in ("weather", [7], [weather, weather]):
            with pytest.raises(InvalidOptionError):
                model.render([Message.user("Hi")], tools=cast("Tools", wrong))


def test_the_async_twin_does_the_same() -> None:
    """Awaited."""

    async def main() -> None:
        async with AsyncModelManager(isolation="thread") as models:
            model = await models.load("smollm2-135m", config=SMALL)
            hi = [Message.user("Hi")]
            assert await model.render(hi, tools=[news]) == model.sync.render(hi, tools=[news])
            assert await model.render(hi, tools=[news]) != await model.render(hi)

    asyncio.run(asyncio.wait_for(main(), 15))

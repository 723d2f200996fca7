"""On the real model, whose template knows no tools: every required call is one and fits its schema, cut off or not."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from localllm import Backend, ChatSession, GenerationOptions, ModelManager, RecordingBackend, ReplayBackend
from localllm.backends.base import GenerateRequest, LoadedModel, ModelSpec
from localllm.backends.llamacpp import LlamaCppBackend
from localllm.chat.definitions import ToolDefinition
from localllm.options import ModelConfig, RequestOptions
from localllm.types import BackendEvent, GenerationEnded, Message, TextDelta
from tests.chat.dialects.rows import ADD, NOW

_WEATHER = ToolDefinition(
    "get_weather",
    "The weather of a town",
    {
        "type": "object",
        "properties": {
            # bounded, for so small a model may write a string that never ends
            "city": {"type": "string", "minLength": 1, "maxLength": 40},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "units": {"enum": ["metric", "imperial"]},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
_TOOLS = (_WEATHER, ADD, NOW)
_QUESTIONS = (
    "What is the weather in Rome for the next 3 days?",
    "How much is 17 and 25.5?",
    "What time is it now?",
    "Tell me a story about a cat.",
)


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Iterator[LoadedModel]:
    """The small model."""
    backend = LlamaCppBackend()
    try:
        yield backend.load(ModelSpec(ref="smollm2", path=smollm2_path, config=ModelConfig(n_ctx=2048, threads=2)))
    finally:
        backend.close()


def _ask(model: LoadedModel, seed: int, tool_choice: str, max_tokens: int = 250) -> tuple[GenerationEnded, str]:
    """Ask one of the questions; return how the reply ended, and its text."""
    events: queue.SimpleQueue[BackendEvent] = queue.SimpleQueue()
    options = RequestOptions(
        seed=seed, temperature=1.0, max_tokens=max_tokens, tool_choice=tool_choice, parallel_tool_calls=seed % 2 == 0
    )
    message = Message.user(_QUESTIONS[seed % len(_QUESTIONS)])
    model.generate(GenerateRequest(messages=(message,), options=options, tools=_TOOLS), events.put)
    text = ""
    while True:
        match events.get(timeout=60):
            case GenerationEnded() as ended:
                return ended, text
            case TextDelta(text=piece):
                text += piece
            case _:
                pass


def _check(model: LoadedModel, seeds: range) -> int:
    """Ask with each seed, hold every call to its schema, and return how many calls there were."""
    schemas = {tool.name: tool.parameters for tool in _TOOLS}
    count = 0
    for seed in seeds:
        ended, text = _ask(model, seed, "required")
        assert ended.error is None
        assert ended.tool_calls, text
        if ended.finish_reason == "tool_calls":
            assert text == ""
        else:  # one call more than the reply had room for
            assert ended.finish_reason == "length"
        assert seed % 2 == 0 or len(ended.tool_calls) == 1
        for call in ended.tool_calls:
            jsonschema.validate(dict(call.arguments), schemas[call.name])
        count += len(ended.tool_calls)
    return count


def test_five_required_calls_fit_their_schemas(model: LoadedModel) -> None:
    """At temperature 1."""
    assert _check(model, range(5)) >= 5


@pytest.mark.soak
def test_a_hundred_required_calls_fit_their_schemas(model: LoadedModel) -> None:
    """At temperature 1."""
    count = _check(model, range(100))
    print(
        f"\n100 replies of the small model with tool_choice='required': {count} calls, all of which fit their schemas"
    )
    assert count >= 100


def test_a_chosen_tool_is_the_one_that_is_called(model: LoadedModel) -> None:
    """Whatever was asked."""
    ended, _ = _ask(model, 0, "add")
    assert {call.name for call in ended.tool_calls} == {"add"}


def test_without_a_choice_the_model_may_speak(model: LoadedModel) -> None:
    """It may call, too."""
    ended, text = _ask(model, 0, "auto", max_tokens=60)
    assert ended.error is None
    assert text or ended.tool_calls


def test_a_reply_cut_within_a_call_goes_on_to_the_call(tmp_path: Path) -> None:
    """What stayed text is none any more; a replay says the same."""
    options = GenerationOptions(temperature=0.0, tool_choice="required", parallel_tool_calls=False, run_tools=False)
    path = tmp_path / "tape.json"

    def talk(backend: Backend) -> list[tuple[str, int, tuple[str, ...]]]:
        with ModelManager(backend) as models:
            model = models.load("smollm2-135m", config=ModelConfig(n_ctx=1024))
            chat = ChatSession(model, tools=[_WEATHER], **options)
            replies = [chat.send(_QUESTIONS[0], max_tokens=2), chat.continue_reply(max_tokens=8), chat.continue_reply()]
            assert chat.history[-1] == replies[-1].message
            return [(reply.text, len(reply.tool_calls), reply.notes) for reply in replies]

    mark, begun, whole = talk(RecordingBackend(LlamaCppBackend(), path))
    for text, calls, notes in (mark, begun):
        assert text
        assert '<tool_call>\n{"name": "get_weather"'.startswith(text)
        assert (calls, notes) == (0, (f"what begins like a call could not be read as one: {text.strip()!r}",))
    assert len(begun[0]) > len(mark[0])
    assert whole == ("", 1, ())
    assert talk(ReplayBackend(path)) == [mark, begun, whole]

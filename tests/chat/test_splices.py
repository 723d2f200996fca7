"""Token-faithful history where a reply has thoughts and tool calls: what was generated comes back as its tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os.path import commonprefix

import pytest
from attrs import evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm._json import JsonValue
from localllm.chat.rendered import RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import ChatTemplate
from localllm.types import Message, TokenIds, ToolCall
from tests.chat.conversations import TOOLS
from tests.chat.test_control_tokens import squeezed
from tests.chat.vocab import LlamaVocabulary


@frozen
class Family:
    """A template, a vocabulary of its family, and what ends a reply in it.

    Args:
        template: Its name.
        vocabulary: Its name; the small model's by default.
        end: What the template writes after a reply.
        thinks: Whether the template writes the thoughts that go with a call.
        variables: What the template wants for that.
    """

    template: str
    vocabulary: str
    end: str
    thinks: bool = False
    variables: Mapping[str, JsonValue] = field(factory=dict)

    def prompt(self, renderer: PromptRenderer, messages: Sequence[Message]) -> RenderedPrompt:
        """Return the prompt for `messages`."""
        return renderer.render(messages, tools=TOOLS, variables=self.variables)


THINK: Mapping[str, JsonValue] = {"enable_thinking": True}
FAMILIES = [
    Family("Qwen-Qwen2.5-7B-Instruct", "qwen2", "<|im_end|>"),
    Family("Qwen-Qwen3-0.6B", "qwen2", "<|im_end|>", thinks=True),
    Family("Qwen3.5-4B", "qwen35", "<|im_end|>", thinks=True),
    Family("Qwen3-Coder", "qwen35", "<|im_end|>"),
    Family("meta-llama-Llama-3.2-3B-Instruct", "llama-bpe", "<|eot_id|>"),
    Family("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "llama-bpe", "<|im_end|>"),
    Family("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command-r", "<|END_OF_TURN_TOKEN|>", True, THINK),
    Family("mistralai-Mistral-Nemo-Instruct-2407", "llama-spm", "</s>"),
    Family("google-gemma-4-31B-it", "gemma-4", "<|tool_response>", True, THINK),
    Family("microsoft-Phi-3.5-mini-instruct", "phi-3", "<|end|>"),
    Family("google-gemma-2-2b-it", "llama-spm", "<end_of_turn>"),
    Family("deepseek-ai-DeepSeek-V3.1", "deepseek-llm", "<｜end▁of▁sentence｜>"),
    Family("openai-gpt-oss-120b", "gpt-2", "<|call|>", thinks=True),
    Family("ibm-granite-granite-4.0", "starcoder", "<|end_of_text|>"),
    Family("HuggingFaceTB-SmolLM3-3B", "SmolLM2-135M-Instruct.Q4_1", "<|im_end|>"),
]
QUESTION = [Message.user("Weather in Ulm?")]
CALL = ToolCall("get_weather", {"city": "Ulm", "days": 2}, "abcdefgh0")
RESULT = Message("tool", "3 degrees", tool_call_id="abcdefgh0")


def spelled(vocabulary: LlamaVocabulary, text: str) -> list[int]:
    """Return tokens of `text` that encoding it would not give: its marks, and one or more for each character."""
    marks = sorted((re.escape(mark) for mark in vocabulary.special_tokens if len(mark) > 2), key=len, reverse=True)
    tokens = []
    for part in re.split(f"({'|'.join(marks)})", text):
        if part in vocabulary.special_tokens:
            tokens.append(vocabulary.special_tokens[part])
            continue
        guard = vocabulary.encode("\ue000", parse_special=False)
        for character in part:
            tokens += vocabulary.encode(f"\ue000{character}", parse_special=False)[len(guard) :]
    return tokens


def call_of(family: Family) -> Message:
    """Return a message that is a call and nothing else."""
    return Message("assistant", "", thought="Let me ask." if family.thinks else None, tool_calls=(CALL,))


def written(renderer: PromptRenderer, family: Family, message: Message) -> str:
    """Return what the template writes for a reply: from the end of the prompt to the mark that ends the reply."""
    before = family.prompt(renderer, QUESTION).text
    text = family.prompt(renderer, [*QUESTION, message, RESULT]).text
    assert text.startswith(before)
    return text[len(before) : text.index(family.end, len(before))]


def remembered(vocabulary: LlamaVocabulary, message: Message, text: str) -> tuple[Message, tuple[int, ...]]:
    """Return the message with the tokens of `text`, and these."""
    tokens = tuple(spelled(vocabulary, text))
    return evolve(message, token_ids=TokenIds(vocabulary.model_hash, tokens)), tokens


@pytest.fixture(params=FAMILIES, ids=lambda family: family.template)
def family(request: pytest.FixtureRequest) -> Family:
    """One family after the other."""
    assert isinstance(request.param, Family)
    return request.param


@pytest.fixture
def vocabulary(family: Family, by_name: dict[str, LlamaVocabulary]) -> LlamaVocabulary:
    """Its vocabulary."""
    return by_name[family.vocabulary]


@pytest.fixture
def renderer(family: Family, vocabulary: LlamaVocabulary, compiled: dict[str, ChatTemplate]) -> PromptRenderer:
    """Its renderer."""
    return PromptRenderer(compiled[family.template], vocabulary)


def test_a_call_comes_back_as_the_tokens_that_it_was_generated_as(
    family: Family, vocabulary: LlamaVocabulary, renderer: PromptRenderer
) -> None:
    """A reply without text: thoughts and marks are part of it, and the prompt after it begins with all of it."""
    before = family.prompt(renderer, QUESTION).tokens
    call = call_of(family)
    text = written(renderer, family, call)
    reply, tokens = remembered(vocabulary, call, text)
    assert CALL.name in text
    after = family.prompt(renderer, [*QUESTION, reply, RESULT])
    assert after.tokens[: len(before) + len(tokens)] == before + tokens
    assert after.text == family.prompt(renderer, [*QUESTION, call, RESULT]).text


def test_a_call_that_the_template_writes_otherwise_comes_back_up_to_there(
    family: Family, vocabulary: LlamaVocabulary, renderer: PromptRenderer
) -> None:
    """The prompt after it begins with every token before the first one that differs."""
    before = family.prompt(renderer, QUESTION)
    call = call_of(family)
    text = written(renderer, family, call)
    same = text.index("Ulm") + 1
    reply, tokens = remembered(vocabulary, call, f"{text[:same]} {text[same:]}")
    kept = len(spelled(vocabulary, text[:same]))
    after = family.prompt(renderer, [*QUESTION, reply, RESULT])
    assert after.tokens[: len(before.tokens) + kept] == before.tokens + tokens[:kept]
    assert after.text.startswith(before.text + text)
    decoded = vocabulary.decode(after.tokens)
    assert "".join(decoded.split()).endswith("".join(after.text[len(before.text) :].split()))


def test_the_next_turn_begins_with_all_tokens_before_the_first_difference(
    family: Family, vocabulary: LlamaVocabulary, renderer: PromptRenderer
) -> None:
    """Later, templates drop thoughts or move the tools; what was read and generated before that is still of use."""
    before = family.prompt(renderer, QUESTION)
    call = evolve(call_of(family), thought="Let me ask.")
    text = written(renderer, family, call)
    reply, tokens = remembered(vocabulary, call, text)
    later = [RESULT, Message("assistant", "3 degrees."), Message.user("Thanks")]
    kept = family.prompt(renderer, [*QUESTION, reply, *later])
    assert kept.text == family.prompt(renderer, [*QUESTION, call, *later]).text
    held = before.tokens + tokens
    pairs = enumerate(zip(kept.tokens, held, strict=False))
    shared = next((place for place, (one, other) in pairs if one != other), len(held))
    same = commonprefix([kept.text, before.text + text])  # noqa: RUF071  # texts, not paths
    # A token that reaches over the difference is another one, so the last word may be missing.
    assert len(vocabulary.decode(held[:shared])) >= len(same) - 16


def test_tokens_of_another_call_are_not_used(
    family: Family, vocabulary: LlamaVocabulary, renderer: PromptRenderer
) -> None:
    """Tokens count only as far as the message still says what they say."""
    call = call_of(family)
    reply, tokens = remembered(vocabulary, call, written(renderer, family, call))
    edited = evolve(reply, tool_calls=(ToolCall("get_weather", {"city": "Bonn"}, "abcdefgh0"),))
    prompt = family.prompt(renderer, [*QUESTION, edited, RESULT])
    plain = family.prompt(renderer, [*QUESTION, evolve(edited, token_ids=None), RESULT])
    assert prompt.text == plain.text
    assert "Bonn" in "".join(vocabulary.decode(prompt.tokens).split())
    assert "Ulm," not in vocabulary.decode(prompt.tokens)[len(prompt.text) // 2 :]
    assert len(tokens) > 10


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_whatever_was_generated_the_prompt_says_what_the_template_says(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], data: st.DataObject
) -> None:
    """Tokens that differ from what the template writes change no more than white space around it."""
    vocabulary = by_name["qwen35"]
    renderer = PromptRenderer(compiled["Qwen-Qwen3-0.6B"], vocabulary)
    city = data.draw(st.text(alphabet="aé東\U0001f326\u0645 \n\"'<", max_size=8))
    thought = data.draw(st.sampled_from([None, "Let me ask.", "\n東 \U0001f326"]))
    call = Message("assistant", "", thought=thought, tool_calls=(ToolCall("get_weather", {"city": city}, "id0"),))
    before = renderer.render(QUESTION, tools=TOOLS)
    text = renderer.render([*QUESTION, call], tools=TOOLS, add_generation_prompt=False).text[len(before.text) :]
    text = text.removesuffix("<|im_end|>\n")
    place = data.draw(st.integers(0, len(text)))
    text = text[:place] + data.draw(st.sampled_from(["", " ", "\U0001f327", "東", "\n\n"])) + text[place + 1 :]
    reply, tokens = remembered(vocabulary, call, text)
    prompt = renderer.render([*QUESTION, reply, RESULT], tools=TOOLS)
    assert squeezed(vocabulary.decode(prompt.tokens)) == squeezed(prompt.text)
    if text == text.strip():
        assert vocabulary.decode(prompt.tokens) == prompt.text
    assert prompt.text == renderer.render([*QUESTION, call, RESULT], tools=TOOLS).text
    assert prompt.tokens[: len(before.tokens)] == before.tokens
    assert len(tokens) > 5


@pytest.mark.parametrize("lead", ["\n\n", ""])
def test_white_space_before_a_call_is_the_templates_to_take_off(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], lead: str
) -> None:
    """A reply that began with empty lines keeps its tokens all the same, with those lines among them."""
    vocabulary = by_name["qwen35"]
    renderer = PromptRenderer(compiled["Qwen-Qwen2.5-7B-Instruct"], vocabulary)
    call = Message("assistant", "Let me see.", tool_calls=(CALL,))
    reply, tokens = remembered(vocabulary, call, lead + 'Let me see.\n<tool_call>\n{"name":"get_weather"}')
    kept = len(spelled(vocabulary, lead + 'Let me see.\n<tool_call>\n{"name":'))
    before = renderer.render(QUESTION, tools=TOOLS).tokens
    after = renderer.render([*QUESTION, reply, RESULT], tools=TOOLS)
    assert after.tokens[: len(before) + kept] == before + tokens[:kept]


def test_no_token_that_ends_within_a_character_is_put_back_alone(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate]
) -> None:
    """Two characters may begin with the same bytes: the first difference is that of characters."""
    vocabulary = by_name["qwen35"]
    renderer = PromptRenderer(compiled["Qwen-Qwen2.5-7B-Instruct"], vocabulary)
    call = Message("assistant", "", tool_calls=(ToolCall("f", {"a": "x\U0001f9ff"}),))
    start = '<tool_call>\n{"name": "f", "arguments": {"a": "x'
    reply, tokens = remembered(vocabulary, call, start + "\U0001f9fe")
    kept = len(spelled(vocabulary, start))
    assert len(tokens) > kept + 1
    before = renderer.render(QUESTION, tools=TOOLS).tokens
    for _ in range(2):  # the second time from what is remembered
        after = renderer.render([*QUESTION, reply, RESULT], tools=TOOLS)
        assert after.tokens[: len(before) + kept] == before + tokens[:kept]
        assert vocabulary.decode(after.tokens) == after.text

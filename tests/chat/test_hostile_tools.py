"""Control tokens are not content, in anything that has to do with tools and thoughts: every template that there is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message, TokenIds, ToolCall
from tests.chat.test_control_tokens import check
from tests.chat.vocab import LlamaVocabulary

PLAIN = "some words"
# Each has control tokens that many of the templates write.
VOCABULARIES = ["qwen35", "llama-bpe", "gemma-4", "phi-3", "command-r"]


@frozen(kw_only=True)
class Texts:
    """What a conversation with a tool says, place by place."""

    description: str = PLAIN
    parameter: str = PLAIN
    parameter_description: str = PLAIN
    call_name: str = "get_weather"
    key: str = "city"
    value: str = PLAIN
    nested: str = PLAIN
    result: str = PLAIN
    thought: str = PLAIN
    content: str = PLAIN

    def tools(self) -> list[JsonValue]:
        """Return the tool's description."""
        text: JsonValue = {"type": "string", "description": self.parameter_description, "enum": [self.parameter]}
        schema: dict[str, JsonValue] = {
            "type": "object",
            "properties": {"city": text, self.parameter: text},
            "required": ["city"],
        }
        return [ToolDefinition("get_weather", self.description, schema).to_dict()]

    def messages(self) -> list[Message]:
        """Return a call with a thought and some text, and its result."""
        arguments: dict[str, JsonValue] = {self.key: self.value, "more": [{"a": self.nested}]}
        call = ToolCall(self.call_name, arguments, "abcdefgh0")
        return [
            Message.user("Weather?"),
            Message("assistant", self.content, thought=self.thought, tool_calls=(call,)),
            Message("tool", self.result, tool_call_id="abcdefgh0"),
        ]


PLACES = ["description", "parameter", "parameter_description", "call_name", "key", "value", "nested", "result"]
PLACES += ["thought", "content"]


def prompt(renderer: PromptRenderer, texts: Texts) -> RenderedPrompt | None:
    """Return the prompt, or None if the template refuses."""
    try:
        return renderer.render(texts.messages(), tools=texts.tools(), variables={"enable_thinking": True})
    except TemplateError:
        return None


def structural(words: Sequence[str]) -> list[str]:
    """Return the words that no template looks for in a text, to read it otherwise."""
    return [word for word in words if "think" not in word.lower() and "tool_response" not in word]


def check_place(place: str, vocabulary: LlamaVocabulary, compiled: dict[str, ChatTemplate]) -> None:
    """Put all special tokens of a vocabulary into one place, in each template that takes the conversation."""
    taken = 0
    filling = ("<unused", "<|reserved", "<|extra", "[PAD", "<|fim")
    words = [word for word in structural(list(vocabulary.special_tokens)) if not word.startswith(filling)]
    hostile = Texts(**{place: f"{PLAIN} {''.join(words[:80])} {' '.join(words[:80])}"})
    for template in compiled.values():
        renderer = PromptRenderer(template, vocabulary)
        expected, found = prompt(renderer, Texts()), prompt(renderer, hostile)
        if expected is not None and found is not None:
            check(vocabulary, found, expected)
            taken += 1
    assert taken >= 60


@pytest.mark.parametrize(("number", "place"), list(enumerate(PLACES)), ids=PLACES)
def test_control_tokens_stay_text_wherever_tools_are_concerned(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], number: int, place: str
) -> None:
    """All special tokens of a vocabulary at once, in one place, make none: in any of the templates.

    Two of the vocabularies for each place, in turns, so that each has its turn four times; all in the long run below.
    """
    for step in (0, 2):
        check_place(place, by_name[VOCABULARIES[(number + step) % len(VOCABULARIES)]], compiled)


@pytest.mark.soak
@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("place", PLACES)
def test_control_tokens_stay_text_in_each_place_for_each_vocabulary(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], place: str, name: str
) -> None:
    """The same for all pairs."""
    check_place(place, by_name[name], compiled)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pieces_of_control_tokens_make_none_across_places(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], data: st.DataObject
) -> None:
    """What a template puts side by side from a call, its thought and its result is no control token either."""
    vocabulary = by_name[data.draw(st.sampled_from(VOCABULARIES))]
    template = data.draw(st.sampled_from(sorted(compiled)))
    words = structural(sorted(vocabulary.special_tokens, key=len)[:300])
    halves = st.builds(
        lambda word, first: word[: len(word) // 2] if first else word[len(word) // 2 :],
        st.sampled_from(words),
        st.booleans(),
    )
    text = st.lists(st.one_of(halves, st.sampled_from(words), st.sampled_from([" ", "\n", "é", "<", "|>"])), max_size=5)
    drawn = {place: "x" + "".join(data.draw(text)) for place in PLACES if data.draw(st.booleans())}
    renderer = PromptRenderer(compiled[template], vocabulary)
    expected, found = prompt(renderer, Texts()), prompt(renderer, Texts(**drawn))
    if expected is not None and found is not None:
        check(vocabulary, found, expected)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "up to a difference"])
def test_tokens_of_a_call_bring_no_control_token_with_them(
    by_name: dict[str, LlamaVocabulary], compiled: dict[str, ChatTemplate], whole: bool
) -> None:
    """A history from elsewhere cannot use `token_ids` for what the text of a thought or an argument may not do."""
    vocabulary = by_name["qwen35"]
    renderer = PromptRenderer(compiled["Qwen-Qwen3-0.6B"], vocabulary)
    mark = "<|im_end|>"
    for texts in (Texts(value=mark, content=""), Texts(thought=mark, content=""), Texts(content=mark)):
        user, call, result = texts.messages()
        before = renderer.render([user]).text
        text = renderer.render([user, call, result]).text[len(before) :]
        generated = vocabulary.encode(text if whole else text.replace('"more"', '"less"'), parse_special=True)
        assert vocabulary.special_tokens[mark] in generated
        ids = TokenIds(vocabulary.model_hash, tuple(generated))
        claimed = Message("assistant", call.content, thought=call.thought, tool_calls=call.tool_calls, token_ids=ids)
        expected = prompt(renderer, Texts(content=texts.content and PLAIN))
        assert expected is not None
        found = renderer.render([user, claimed, result], tools=texts.tools(), variables={"enable_thinking": True})
        check(vocabulary, found, expected)

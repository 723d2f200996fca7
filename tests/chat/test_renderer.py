"""`PromptRenderer`: token-faithful history, BOS, what is remembered between turns."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.lru import Lru
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message, TokenIds, ToolCall
from tests.chat.vocab import LlamaVocabulary


def generated(vocabulary: LlamaVocabulary, tokens: list[int]) -> Message:
    """Return the message that a session keeps of a reply of these tokens."""
    ids = TokenIds(vocabulary.model_hash, tuple(tokens))
    return Message("assistant", vocabulary.decode(tokens), token_ids=ids)


def odd(vocabulary: LlamaVocabulary, text: str) -> list[int]:
    """Return tokens of `text` that encoding it would not give: one for each character."""
    return [token for character in text for token in vocabulary.encode(character, parse_special=False)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_each_turn_begins_with_all_the_tokens_of_the_turns_before(
    vocabularies: list[LlamaVocabulary], data: st.DataObject
) -> None:
    """Under ChatML, prompt n + 1 begins with prompt n and the tokens generated for it, whatever those were."""
    vocabulary = data.draw(st.sampled_from([v for v in vocabularies if v.name not in ("bert-bge", "nomic-bert-moe")]))
    special = set(vocabulary.special_tokens.values())
    renderer = PromptRenderer(ChatTemplate(CHATML), vocabulary)
    messages = [Message.system(data.draw(st.sampled_from(["", "You are terse.", "<|im_end|>"])))]
    for number in range(data.draw(st.integers(1, 4))):
        messages.append(Message.user(data.draw(st.sampled_from(["Hi", " spaced ", "<s>", "\nline"])) + str(number)))
        prompt = renderer.render(messages)
        size = vocabulary.size - 1
        tokens = [token for token in data.draw(st.lists(st.integers(0, size), max_size=9)) if token not in special]
        reply = generated(vocabulary, tokens)
        messages.append(reply)
        longer = renderer.render([*messages, Message.user("next")])
        expected = (*prompt.tokens, *tokens) if reply.content else prompt.tokens
        assert longer.tokens[: len(expected)] == expected
        assert longer.text.startswith(prompt.text + reply.content)


TRIMMING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content|trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, TRIMMING], ids=["verbatim", "trimming"])
@pytest.mark.parametrize("text", ["Hello there", " Hello\n", "\n\n Hello \n"])
def test_generated_tokens_are_put_back(smollm2: LlamaVocabulary, template: str, text: str) -> None:
    """Tokens that encoding would not give come back, and white space that the template trims does no harm."""
    renderer = PromptRenderer(ChatTemplate(template), smollm2)
    question = [Message.user("Hi")]
    reply = generated(smollm2, odd(smollm2, text))
    assert reply.token_ids is not None
    prompt = renderer.render([*question, reply, Message.user("more")])
    before = renderer.render(question).tokens
    assert prompt.tokens[: len(before) + len(text)] == before + reply.token_ids.tokens
    assert prompt.text == ChatTemplate(template).render([*question, reply, Message.user("more")])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content|upper }}",
        "{{ messages[0].content }}{{ messages[0].content }}",
        "{{ messages[0].content|replace('e', 'i') }}",
        "{{ messages[0].content[1:] }}",
        "{{ messages[0].content[:3] ~ '-' ~ messages[0].content[3:] }}",
        "{{ messages[0].content|tojson|tojson }}",
        "{{ messages[0].content|length }}",
    ],
)
def test_text_that_the_template_changes_is_encoded_anew(smollm2: LlamaVocabulary, template: str) -> None:
    """Generated tokens are put back only where their text stands, once and unchanged."""
    reply = generated(smollm2, odd(smollm2, "Hello there"))
    prompt = PromptRenderer(ChatTemplate(template), smollm2).render([reply])
    assert list(prompt.tokens) == smollm2.encode(prompt.text, parse_special=False)


def test_tokens_of_another_model_or_another_text_are_not_used(smollm2: LlamaVocabulary) -> None:
    """`token_ids` count for their own model only, and only as long as the message still says what they say."""
    renderer = PromptRenderer(ChatTemplate(CHATML), smollm2)
    reply = generated(smollm2, odd(smollm2, "Hello there"))
    assert reply.token_ids is not None
    anew = renderer.render([Message("assistant", "Hello there")])
    kept = renderer.render([reply])
    assert kept.tokens != anew.tokens
    other = evolve(reply, token_ids=TokenIds("another", reply.token_ids.tokens))
    edited = evolve(reply, content="Hello again")
    assert renderer.render([other]).tokens == anew.tokens
    assert renderer.render([edited]).tokens == renderer.render([Message("assistant", "Hello again")]).tokens
    assert smollm2.decode(kept.tokens) == smollm2.decode(anew.tokens) == kept.text == anew.text


def test_token_ids_bring_no_control_tokens_into_content(smollm2: LlamaVocabulary) -> None:
    """A history from elsewhere cannot use `token_ids` for what its text may not do."""
    end = smollm2.special_tokens["<|im_end|>"]
    renderer = PromptRenderer(ChatTemplate(CHATML), smollm2)
    reply = generated(smollm2, [*odd(smollm2, "Hi"), end, *odd(smollm2, "you")])
    assert reply.content == "Hi<|im_end|>you"
    tokens = renderer.render([reply], add_generation_prompt=False).tokens
    assert tokens.count(end) == 1


def test_marks_that_the_template_writes_again_are_put_back_too(smollm2: LlamaVocabulary) -> None:
    """Thoughts and calls: the message has them apart, the template joins them as the model wrote them."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content is defined %}<file_sep>"
        "{{ m.reasoning_content }}<empty_output>{% endif %}{{ m.content }}"
        "{% for call in m.tool_calls %}<filename>{{ call.function.arguments|tojson }}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    renderer = PromptRenderer(ChatTemplate(source), smollm2)
    special = smollm2.special_tokens
    tokens = [special["<file_sep>"], *odd(smollm2, "let me see"), special["<empty_output>"], *odd(smollm2, "Yes")]
    tokens += [special["<filename>"], *odd(smollm2, '{"a": "b c"}')]
    reply = Message(
        "assistant",
        "Yes",
        thought="let me see",
        tool_calls=(ToolCall("f", {"a": "b c"}),),
        token_ids=TokenIds(smollm2.model_hash, tuple(tokens)),
    )
    question = [Message.user("Really?")]
    before = renderer.render(question).tokens
    prompt = renderer.render([*question, reply, Message.user("Why?")])
    assert prompt.tokens[: len(before) + len(tokens)] == (*before, *tokens)
    # Without the thought the template writes less than what was generated: encoded anew.
    shorter = renderer.render([*question, evolve(reply, thought=None), Message.user("Why?")])
    assert special["<file_sep>"] not in shorter.tokens


def test_bos_is_there_once(by_name: dict[str, LlamaVocabulary]) -> None:
    """A vocabulary that wants a BOS gets one, whether the template writes it or not."""
    llama = by_name["llama-bpe"]
    assert llama.adds_bos
    for source in ("{{ messages[0].content }}", "{{ bos_token }}{{ messages[0].content }}"):
        prompt = PromptRenderer(ChatTemplate(source), llama).render([Message.user("Hi")])
        assert prompt.tokens == (llama.bos_id, *llama.encode("Hi", parse_special=False))
    spoken = PromptRenderer(ChatTemplate("{{ messages[0].content }}"), llama).render([Message.user(llama.bos_text)])
    assert spoken.tokens.count(llama.special_tokens[llama.bos_text]) == 1
    qwen = by_name["qwen2"]
    assert not qwen.adds_bos
    prompt = PromptRenderer(ChatTemplate("{{ messages[0].content }}"), qwen).render([Message.user("Hi")])
    assert list(prompt.tokens) == qwen.encode("Hi", parse_special=False)


def test_no_space_is_added_where_a_text_is_encoded_in_parts(by_name: dict[str, LlamaVocabulary]) -> None:
    """SPM vocabularies put a space before a text; not in the middle of one that had to be cut, or after a reply."""
    phi = by_name["phi-3"]
    renderer = PromptRenderer(ChatTemplate("{{ messages[0].content }}-{{ messages[1].content }}"), phi)
    assert phi.decode(renderer.encode_plain("say</s>it")) == "say</s>it"
    reply = generated(phi, phi.encode("Hello", parse_special=False))
    prompt = renderer.render([reply, Message.user("you</s>there")])
    assert phi.decode(prompt.tokens[1:]) == "Hello-you</s>there"


def test_a_long_history_is_not_encoded_again(smollm2: LlamaVocabulary) -> None:
    """The next turn asks the vocabulary for what is new only."""
    renderer = PromptRenderer(ChatTemplate(CHATML), smollm2)
    messages = [Message.system("You are terse. " * 50)]
    for number in range(30):
        messages += [Message.user(f"Question {number}"), Message("assistant", f"Answer {number}")]
    renderer.render([*messages, Message.user("One")])
    calls = smollm2.calls
    renderer.render([*messages, Message.user("One"), Message("assistant", "Two"), Message.user("Three")])
    assert smollm2.calls - calls <= 4


def test_a_refusal_reaches_the_caller(smollm2: LlamaVocabulary, compiled: dict[str, ChatTemplate]) -> None:
    """A template that wants alternating roles says so in its own words."""
    renderer = PromptRenderer(compiled["google-gemma-2-2b-it"], smollm2)
    with pytest.raises(TemplateError, match="roles must alternate user/assistant"):
        renderer.render([Message.user("a"), Message.user("b")])


def test_an_lru_forgets_what_was_used_longest_ago() -> None:
    """The sum of weights stays within the capacity; looking something up keeps it."""
    lru: Lru[str, int] = Lru(10)
    for number, key in enumerate("abc"):
        lru.put(key, number, 4)
        assert lru.get("a") == (0 if key != "d" else None)
    assert [lru.get(key) for key in "abc"] == [0, None, 2]
    lru.put("a", 7, 2)
    assert (lru.get("a"), lru.weight) == (7, 6)
    lru.put("big", 8, 11)
    assert ([lru.get(key) for key in ("a", "c", "big")], lru.weight) == ([7, 2, None], 6)

"""Control tokens are not content: real vocabularies through real templates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.rendered import RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, ChatTemplate
from localllm.chat.tokenizer import PromptTokenizer, Splice
from localllm.chat.traced import CONTENT, OWN, TracedText, content, join, plain
from localllm.chat.vocabulary import is_structure
from localllm.errors import TemplateError
from localllm.types import Message
from tests.chat.conversations import chat, tool_chat
from tests.chat.vocab import LlamaVocabulary

# What they do to content, beyond writing it: trim, split, replace, look for marks in it, write it as JSON, slice it.
TEMPLATES = [
    *("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "GLM-4.6", "HuggingFaceTB-SmolLM3-3B", "Kimi-K2-Instruct"),
    *("LFM2.5-8B-A1B", "MiniMax-M2", "NVIDIA-Nemotron-Nano-v2", "Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-V3.1"),
    *("google-gemma-4-31B-it", "llama-cpp-rwkv-world", "meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b"),
    *("microsoft-Phi-3.5-mini-instruct", "mistralai-Mistral-Nemo-Instruct-2407", "Reka-Edge", "muse-glimmer"),
]
# These two lower-case, or normalize, what they read: what is decoded is not what was encoded.
NORMALIZING = ("bert-bge", "nomic-bert-moe")


def special_ids(vocabulary: LlamaVocabulary, tokens: Iterable[int]) -> list[int]:
    """Return those of `tokens` that content must never become; the unknown token may stand for unknown text."""
    unknown = set(vocabulary.encode("\ue000\u16de\U0001fae0", parse_special=False))
    special = set(vocabulary.special_tokens.values()) - unknown
    return [token for token in tokens if token in special]


def squeezed(text: str) -> str:
    """Return the text without white space, which some vocabularies add and drop beside special tokens."""
    return "".join(text.replace("\u2581", " ").split())


def check(vocabulary: LlamaVocabulary, prompt: RenderedPrompt, harmless: RenderedPrompt) -> None:
    """Check that a prompt has the control tokens of a harmless one of the same shape, and all of its own text."""
    assert special_ids(vocabulary, prompt.tokens) == special_ids(vocabulary, harmless.tokens)
    if vocabulary.name not in NORMALIZING:
        added = vocabulary.adds_bos and not prompt.text.startswith(vocabulary.bos_text)
        decoded = vocabulary.decode(prompt.tokens[1:] if added else prompt.tokens)
        assert squeezed(decoded) == squeezed(prompt.text)


def harmful(words: Sequence[str]) -> list[list[Message]]:
    """Return conversations that are full of `words`, whole and in pieces."""
    everything = "".join(words), " ".join(words), "\n".join(reversed(words))
    halves = [word[: len(word) // 2] for word in words], [word[len(word) // 2 :] for word in words]
    return [
        chat(everything[0], everything[1], everything[2], everything[0]),
        chat(f" {everything[1]} ", f"x{everything[0]}", f"{everything[0]}x", everything[2]),
        # Pieces that would be whole if a template put two contents side by side, or its own text between them.
        chat(halves[0][0], halves[1][0], halves[0][-1], halves[1][-1]),
        chat("".join(halves[1]), "".join(halves[0]), " ".join(halves[1]), " ".join(halves[0])),
    ]


def rendered(renderer: PromptRenderer, conversation: Sequence[Message]) -> RenderedPrompt | None:
    """Return the prompt, or None if the template has no system messages, tools, or the like."""
    try:
        return renderer.render(conversation)
    except TemplateError:
        return None


def renderers(
    vocabulary: LlamaVocabulary, compiled: dict[str, ChatTemplate], names: Iterable[str] = TEMPLATES
) -> Iterator[PromptRenderer]:
    """Return a renderer for each of the templates."""
    for name in names:
        yield PromptRenderer(compiled[name], vocabulary)


HARMLESS = chat("Some words", "Some words", "Some words", "Some words")


def test_the_vocabularies_are_worth_it(vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate]) -> None:
    """There are at least ten vocabularies with control tokens, and every chosen template takes the conversation."""
    assert len([vocabulary for vocabulary in vocabularies if vocabulary.control_tokens]) >= 18
    for name in TEMPLATES:
        assert compiled[name].render(HARMLESS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_special_token_in_every_vocabulary_stays_text(
    vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate], name: str
) -> None:
    """All special tokens of all vocabularies at once, whole and in pieces, in every message, add no control token."""
    for vocabulary in vocabularies:
        renderer = PromptRenderer(compiled[name], vocabulary)
        # All but most of the thousands that only fill a vocabulary up.
        filling = [word for word in vocabulary.special_tokens if word.startswith("[PAD") and word[4:5].isdecimal()]
        words = [word for word in vocabulary.special_tokens if word not in set(filling[20:])]
        assert set(words) >= set(vocabulary.control_tokens) - set(filling)
        harmless = renderer.render(HARMLESS)
        for conversation in harmful(words):
            check(vocabulary, renderer.render(conversation), harmless)


def test_single_control_tokens_stay_text(
    vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate]
) -> None:
    """A control token that is all of a message, at its beginning, at its end and in its middle, stays text."""
    for vocabulary in vocabularies:
        words = list(vocabulary.control_tokens)
        for renderer in renderers(vocabulary, compiled):
            harmless = renderer.render(HARMLESS)
            for word in [*words[:4], *words[-2:]]:
                check(vocabulary, renderer.render(chat(word, f"{word} a", f"a {word}", f"a {word} b")), harmless)


def test_tools_thoughts_and_results_stay_text(
    vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate]
) -> None:
    """Thoughts, arguments of calls, results, tool descriptions and further variables are content too."""
    taken = 0
    for vocabulary in vocabularies:
        word = "".join(list(vocabulary.special_tokens)[:60])
        for renderer in renderers(vocabulary, compiled):
            conversation = [tool_chat(*[text] * 5) for text in ("Some words", word)]
            prompts = [rendered(renderer, messages) for messages in conversation]
            if prompts[0] is not None and prompts[1] is not None:
                taken += 1
                check(vocabulary, prompts[1], prompts[0])
    assert taken > 10 * 10


def test_tools_documents_and_variables_stay_text(smollm2: LlamaVocabulary) -> None:
    """Whatever an application hands to a template is content: values and keys, as text and as JSON."""
    word = "<|im_end|>"
    source = "{{ tools|tojson }}{{ documents }}{{ x }}{% for key in tools[0] %}{{ key }}{% endfor %}"
    renderer = PromptRenderer(ChatTemplate(source), smollm2)
    prompt = renderer.render([], tools=[{word: [word]}], documents=[word], variables={"x": word})
    assert prompt.text.count(word) == 5
    assert not special_ids(smollm2, prompt.tokens)


def test_whatever_a_template_does_to_content_it_stays_text(smollm2: LlamaVocabulary) -> None:
    """Content that a template joins, strips, changes the case of or takes apart until it reads as a control token."""
    word, first, second = "<|im_end|>", "<|im_", "end|>"
    for source in [
        "{{ c }}",
        "{{ a ~ b }}{{ a + b }}{{ [a, b]|join }}{{ '%s%s' % (a, b) }}{{ '{}{}'.format(a, b) }}",
        "{{ a }}end|>{{ '<|im_' + b }}<|{{ 'im_end' }}{{ c[-2:] }}",
        "{{ c.upper().lower() }}{{ ('x' ~ c ~ 'x').strip('x') }}{{ ('x' ~ c).replace('x', '') }}{{ c[::-1][::-1] }}",
        "{{ '<|im-end|>'.replace('-', messages[0].content) }}{{ a.split('_')[0] }}{{ '_' }}{{ b }}",
        "{{ [c]|tojson }}{{ [c] }}{{ {'k': c} }}{{ c|string|trim|default('') }}{{ {c: 1}|items|first|first }}",
        "{% for i in c %}{{ i }}{% endfor %}{% set x %}{{ a }}{{ b }}{% endset %}{{ x }}",
        "{% macro m(t) %}{{ t }}{% endmacro %}{{ m(c) }}{{ m(a) ~ m(b) }}{% filter lower %}{{ c }}{% endfilter %}",
    ]:
        variables = {"a": first, "b": second, "c": word}
        prompt = PromptRenderer(ChatTemplate(source), smollm2).render([Message.user("_")], variables=variables)
        assert special_ids(smollm2, prompt.tokens) == [], source
        assert word in prompt.text
        assert smollm2.decode(prompt.tokens) == prompt.text


def test_the_templates_own_text_makes_control_tokens(smollm2: LlamaVocabulary) -> None:
    """However the template puts its own text together, it is a control token; right beside content too."""
    source = "{{ '<|im_' ~ 'start|>' }}{{ messages[0].role }}{{ '\n' + messages[0].content + '<|im_end|>' }}"
    prompt = PromptRenderer(ChatTemplate(source), smollm2).render([Message.user("<|im_end|>")])
    start, end = smollm2.special_tokens["<|im_start|>"], smollm2.special_tokens["<|im_end|>"]
    assert special_ids(smollm2, prompt.tokens) == [start, end]
    assert prompt.tokens[-1] == end
    assert prompt.text == "<|im_start|>user\n<|im_end|><|im_end|>"


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_contents_made_of_pieces_of_control_tokens_stay_text(
    vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate], data: st.DataObject
) -> None:
    """Random contents, of whole control tokens and their pieces, make no control token with each other or around."""
    vocabulary = data.draw(st.sampled_from(vocabularies))
    word = st.sampled_from(sorted(vocabulary.special_tokens, key=len)[:300])
    piece = st.builds(
        lambda word, start, stop: word[start:stop], word, st.integers(0, 4), st.sampled_from([2, 6, None, -1])
    )
    parts = st.lists(st.one_of(word, piece, st.sampled_from([" ", "\n", "a", "é", "\u2581", "<", "|>"])), max_size=6)
    text = parts.map("".join)
    contents = [data.draw(text) for _ in range(4)]
    renderer = PromptRenderer(compiled[data.draw(st.sampled_from(TEMPLATES))], vocabulary)
    # Empty where the content is empty after trimming: templates leave out what is empty.
    harmless = renderer.render(chat(*("words" if content.strip() else content for content in contents)))
    check(vocabulary, renderer.render(chat(*contents)), harmless)


def test_plain_prompts_have_the_tokens_of_the_usual_path(
    vocabularies: list[LlamaVocabulary], compiled: dict[str, ChatTemplate]
) -> None:
    """Without special texts in content, the tokens are those of the whole text, for every vocabulary and template."""
    conversation = chat(
        "You are\n\n  terse. ", "Hello wörld,\n    indented 日本語 \U0001f916\n", " <b>x</b>\ttab ", "Who?"
    )
    texts = []
    for template in compiled.values():
        try:
            texts.append(template.render(conversation))
        except TemplateError:
            continue
    assert len(texts) > 60
    for vocabulary in vocabularies:
        tokenizer = PromptTokenizer(vocabulary)
        for text in texts:
            assert tokenizer.encode(text) == vocabulary.encode(plain(text), parse_special=True)
            assert tokenizer.encode(text) == tokenizer.encode(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_text_of_the_template_has_the_tokens_of_the_usual_path(
    vocabularies: list[LlamaVocabulary], data: st.DataObject
) -> None:
    """Texts made of control tokens, white space and words: cutting at control tokens changes nothing."""
    vocabulary = data.draw(st.sampled_from(vocabularies))
    word = st.sampled_from(sorted(vocabulary.special_tokens, key=len)[:300])
    parts = st.lists(st.one_of(word, st.sampled_from([" ", "\n", "\n\n", "  ", "\t", "a", " b", "é", "<", ">", "1"])))
    text = "".join(data.draw(parts))
    if text:
        assert PromptTokenizer(vocabulary).encode(text) == vocabulary.encode(text, parse_special=True)


def test_plain_text_never_gives_special_tokens(vocabularies: list[LlamaVocabulary]) -> None:
    """`encode_plain` gives no special token for any special text, and what it gives spells the text."""
    for vocabulary in vocabularies:
        renderer = PromptRenderer(ChatTemplate(CHATML), vocabulary)
        assert renderer.encode_plain("") == []
        for word in list(vocabulary.special_tokens)[:400]:
            tokens = renderer.encode_plain(word)
            assert not special_ids(vocabulary, tokens), word
            if vocabulary.name not in NORMALIZING:
                assert squeezed(vocabulary.decode(tokens)) == squeezed(word)


class ToyVocabulary:
    """Characters are tokens; `[X]` and `[X][Y]` are special, and `(Z)` is user-defined: found in plain text, too."""

    model_hash = "toy"
    bos_text = eos_text = ""
    bos_id = None
    adds_bos = False
    special_tokens = {"[X]": -1, "[X][Y]": -2, "(Z)": -3, "]{": -4}  # noqa: RUF012

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Encode greedily; without `parse_special` the user-defined token only."""
        texts = self.special_tokens if parse_special else {"(Z)": -3}
        tokens: list[int] = []
        while text:
            found = max((word for word in texts if text.startswith(word)), key=len, default="")
            tokens.append(texts[found] if found else ord(text[0]))
            text = text[len(found) or 1 :]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the characters."""
        names = {token: text for text, token in self.special_tokens.items()}
        return "".join(names.get(token) or chr(token) for token in tokens)


def test_a_shorter_token_counts_where_content_spoils_a_longer_one() -> None:
    """`[X]` of the template stays a control token although `[Y]` of the content would make it a longer one."""
    tokenizer = PromptTokenizer(ToyVocabulary())
    assert tokenizer.encode("[X][Y]") == [-2]
    assert tokenizer.encode(join(["[X]", content("[Y]")])) == [-1, *map(ord, "[Y]")]
    assert tokenizer.encode(join([content("[X]"), "[Y]"])) == [*map(ord, "[X][Y]")]
    assert tokenizer.encode("[X]{") == [-1, ord("{")]  # the longer one wins
    assert tokenizer.encode(TracedText("a(Z)(Z)", CONTENT * 7)) == [*map(ord, "a(Z)(Z)")]
    assert tokenizer.encode(TracedText("a(Z)(Z)", CONTENT * 4 + OWN * 3)) == [*map(ord, "a(Z)"), -3]


class NormalizingVocabulary(ToyVocabulary):
    """Reads wide letters as narrow ones, as some tokenizers do, so that a special token shows only in the result."""

    def encode(self, text: str, *, parse_special: bool) -> list[int]:
        """Encode with all special tokens found after normalizing, asked for or not."""
        return super().encode(text.replace("\uff3b", "["), parse_special=True)


def test_what_only_the_tokenizer_sees_is_taken_apart_as_well() -> None:
    """Where no text tells why a special token arises, the content is split until none does."""
    tokenizer = PromptTokenizer(NormalizingVocabulary())
    assert tokenizer.encode_plain("aa\uff3bX]bb") == [*map(ord, "aa[X]bb")]
    assert tokenizer.encode(join(["[X]", content("\uff3bX]\uff3bX]"), "[X]"])) == [-1, *map(ord, "[X][X]"), -1]


class PlainVocabulary(ToyVocabulary):
    """Has no special tokens at all."""

    special_tokens = {}  # noqa: RUF012


def test_a_vocabulary_without_special_tokens_is_fine() -> None:
    """Everything is text then."""
    assert PromptTokenizer(PlainVocabulary()).encode(join(["[X]", content("[Y]")])) == [*map(ord, "[X][Y]")]


def test_a_splice_that_cuts_a_control_token_is_left_out() -> None:
    """A stretch with tokens of its own neither begins nor ends inside a control token of the template."""
    tokenizer = PromptTokenizer(ToyVocabulary())
    assert tokenizer.encode("a[X]b", [Splice(0, 2, (7,))]) == [ord("a"), -1, ord("b")]
    assert tokenizer.encode("a[X]b", [Splice(2, 5, (7,))]) == [ord("a"), -1, ord("b")]
    assert tokenizer.encode("a[X]b", [Splice(0, 4, (7,))]) == [ord("a"), -1, ord("b")]
    assert tokenizer.encode("a[X]b", [Splice(0, 4, (7, -1))]) == [7, -1, ord("b")]
    assert tokenizer.encode("a[X]b", [Splice(0, 1, (7,)), Splice(4, 5, (8,))]) == [7, -1, 8]


@pytest.mark.parametrize(
    "text", ["<tool_call>", "</think>", "<|channel>", '<|"|>', "[PAD151646]", "<unused3>", "[multimodal]", "<|a b|>"]
)
def test_marks_are_structure(text: str) -> None:
    """User-defined tokens in brackets and the like must not come from content."""
    assert is_structure(text)


@pytest.mark.parametrize("text", ["  ", "\n\n", "\u2581\u2581", "õ", "hello", "<b>", "</table>", "<h1>", "a]", "<"])
def test_spellings_are_no_structure(text: str) -> None:
    """White space, characters, words and HTML tags are ordinary text."""
    assert not is_structure(text)

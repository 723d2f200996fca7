"""How the user's text is gone on with by llama.cpp: within the last word, in the user's turn, behind everybody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from attrs import evolve
from numpy.typing import NDArray

from localllm import ChatSession, GenerateRequest, Message, Model, ModelConfig, ModelManager
from localllm.backends.base import ResumePoint
from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.completing import SpelledWord, Spelling, WithoutWord, last_word
from localllm.backends.llamacpp.preparation import Preparation
from localllm.backends.llamacpp.token_model import LlamaVocabulary
from localllm.chat.dialects import dialect_of
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, RAW, ChatTemplate
from localllm.errors import ContextOverflowError
from localllm.options import RequestOptions
from localllm.types import TextDelta
from tests.backends.asking import Asked
from tests.chats import in_thread

FRANCE = (
    Message.user("Hi, I plan a trip to France."),
    Message("assistant", "How wonderful! What would you like to know?"),
)


@pytest.fixture(scope="module")
def spelling(native: NativeModel) -> Spelling:
    """Its tokens, for words."""
    return Spelling(native, frozenset(LlamaVocabulary(native, "hash").special_tokens.values()))


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The real model, in this process."""
    with ModelManager(isolation="thread") as models:
        yield models.load("smollm2-135m", config=ModelConfig(n_ctx=1024))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("What is the capi", " capi"),
        ("What is the ", " "),
        ("What", "What"),
        ("a b", " b"),
        ("line\n\nWhat", "What"),
        ("法国的首都是", "法国的首都是"),
        ("smile 🙂", " 🙂"),
    ],
)
def test_the_last_word_is_taken_off_the_prompt(native: NativeModel, spelling: Spelling, text: str, word: str) -> None:
    """With the space before it, in whole characters; where there are no spaces, some tokens."""
    vocabulary = LlamaVocabulary(native, "hash")
    tokens = native.tokenize("<|im_start|>user\n" + text, parse_special=True)
    count, found = last_word(tokens, len(text), vocabulary.decode, spelling.special)
    assert found == word
    assert native.detokenize(tokens[len(tokens) - count :]).decode() == word


def test_neither_the_templates_text_nor_the_last_token_is_taken_off(native: NativeModel, spelling: Spelling) -> None:
    """Where the user's text is one word, it ends there; a prompt is never empty."""
    vocabulary = LlamaVocabulary(native, "hash")
    tokens = native.tokenize("user:What", parse_special=False)
    assert last_word(tokens, 4, vocabulary.decode, spelling.special)[1] == "What"
    assert last_word(tokens, 2, vocabulary.decode, spelling.special) == (0, "")
    assert last_word(tokens[:1], 4, vocabulary.decode, spelling.special) == (0, "")
    end = native.tokenize("<|im_end|>", parse_special=True)
    assert last_word([*tokens, *end], 100, vocabulary.decode, spelling.special) == (0, "")


@pytest.mark.parametrize("word", [" capi", " ", "é", "a", "🙂", "法国"])
def test_a_word_can_be_spelled_in_every_way_and_in_no_other(native: NativeModel, spelling: Spelling, word: str) -> None:
    """A token fits that begins with what is left of it, or is its beginning; never a control token."""
    data = word.encode()
    fitting = set(SpelledWord(word, spelling)._spelling.first(data).nonzero()[0].tolist())
    expected = set()
    for token in range(native.n_vocab):
        piece = native.piece(token)
        if piece and token not in spelling.special and (piece.startswith(data) or data.startswith(piece)):
            expected.add(token)
    assert fitting == expected


def test_a_word_is_spelled_token_by_token_and_a_control_token_ends_all(native: NativeModel, spelling: Spelling) -> None:
    """Once it is spelled, anything may follow."""
    word = SpelledWord(" capi", spelling)
    (cap,) = native.tokenize(" cap", parse_special=False)
    (ital,) = native.tokenize("ital", parse_special=False)
    (end,) = native.tokenize("<|im_end|>", parse_special=True)
    mask = word.allowed()
    assert mask is not None
    assert mask[cap]
    assert not mask[ital]
    assert not mask[end]
    assert not word.allows((end,))
    word.accept((cap,))
    mask = word.allowed()
    assert mask is not None
    assert mask[ital]
    assert not mask[cap]
    word.accept((ital,))
    assert word.allowed() is None
    assert word.allows((end,))
    assert not word.stopped
    assert word.forced() == ()
    word.accept((end,))
    assert word.stopped


def test_a_word_that_the_vocabulary_cannot_spell_ends_the_completion(spelling: Spelling) -> None:
    """Nothing is suggested; nothing fails."""

    class Mute(Spelling):
        def first(self, rest: bytes) -> NDArray[np.bool_]:
            return np.zeros_like(super().first(rest))

    assert SpelledWord("x", Mute(spelling._native, spelling.special)).stopped
    assert not SpelledWord("", spelling).stopped


def test_the_word_itself_is_not_told() -> None:
    """However its text comes."""
    for pieces in (["abcdef"], ["ab", "cd", "ef"], ["abc", "def"], list("abcdef")):
        fold = WithoutWord("abc")
        deltas = [delta for piece in pieces for delta in fold.push(piece)]
        assert all(isinstance(delta, TextDelta) for delta in deltas)
        assert "".join(delta.text for delta in deltas) == "def"
        assert (*fold.flush(), *fold.calls, *fold.notes) == ()
        assert (fold.thinking, fold.close_thought) == (False, "")


def test_what_a_completion_is_prepared_as(native: NativeModel) -> None:
    """The prompt of a reply up to the last word; what the template trims is a part of that word."""
    vocabulary = LlamaVocabulary(native, "hash")
    for template in (CHATML, CHATML.replace("message.content", "message.content | trim"), RAW):
        dialect = None if template is RAW else dialect_of(template)
        preparation = Preparation(
            PromptRenderer(ChatTemplate(template), vocabulary), vocabulary, dialect, template, n_ctx=100
        )
        reply = GenerateRequest(messages=(Message.user("What is the capital "),))
        whole = preparation.prepare(reply)
        prepared = preparation.prepare(GenerateRequest(messages=reply.messages, purpose="complete"))
        assert whole.word is None
        assert prepared.word == (" capital " if "trim" in template else " ")
        assert list(prepared.tokens) == list(whole.tokens)[: len(prepared.tokens)]
        with pytest.raises(ContextOverflowError):
            preparation.prepare(GenerateRequest(messages=(Message.user("word " * 200),), purpose="complete"))


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("What is the capi", "tal of France?"),
        ("What is the capital of ", "France?"),
        ("What is the capital", " of France?"),
        ("How do I get from Paris to Ly", "on?"),
        ("Tell me about the hist", "ory of France."),
    ],
)
def test_the_real_model_goes_on_within_a_word(model: Model, text: str, suggestion: str) -> None:
    """What it would write on in the user's turn, and not an answer; the same each time."""
    chat = ChatSession(model, history=FRANCE)
    assert chat.complete_prompt(text) == suggestion
    assert chat.complete_prompt(text) == suggestion
    assert chat.history == FRANCE


def test_control_tokens_typed_by_the_user_are_text(model: Model) -> None:
    """They end nothing and are taken off as the text that they are."""
    chat = ChatSession(model, history=FRANCE)
    assert isinstance(chat.complete_prompt("What does <|im_end|> me"), str)
    assert chat.history == FRANCE


def test_what_was_read_for_a_suggestion_is_read_for_the_reply(model: Model) -> None:
    """All but the last word is cached when it is sent; and a suggestion begins where the one before ended."""
    chat = ChatSession(model, system="You know all about birds. " * 12)
    chat.complete_prompt("Which bird is the larg", max_tokens=4)
    before = model.stats()
    chat.complete_prompt("Which bird is the largest of al", max_tokens=4)
    after = model.stats()
    read = after.prompt_tokens - before.prompt_tokens - (after.cached_tokens - before.cached_tokens)
    assert read <= 4
    usage = chat.send("Which bird is the largest of all?", max_tokens=2).usage
    assert usage.prompt_tokens - usage.cached_tokens <= 12


def test_a_reply_does_not_wait_for_a_suggestion(model: Model) -> None:
    """The suggestion that is being made ends, with what there is of it; what it had read serves the reply."""
    chat = ChatSession(model, system="You know all about fish. " * 12)
    made: list[str] = []
    wait = in_thread(
        lambda: made.append(chat.complete_prompt("Write a long story about ", max_tokens=None, temperature=1.5, seed=1))
    )
    while not model.stats().running and not made:
        threading.Event().wait(0.005)
    assert chat.send("Write a long story about a fish.", max_tokens=3).usage.completion_tokens == 3
    assert wait() is None
    assert len(made) == 1
    assert len(chat.history) == 3


@pytest.mark.parametrize("deltas", [1, 2])
def test_a_suggestion_goes_on_after_a_crash(model: Model, deltas: int) -> None:
    """From the tokens that it had, those of the word among them; nothing is told twice, and nothing is left out."""
    options = RequestOptions(temperature=0.0, max_tokens=12)
    request = GenerateRequest(messages=(*FRANCE, Message.user("Tell me about the hist")), options=options)
    request = evolve(request, purpose="complete")
    whole, rest = Asked(), Asked()
    model.submit(request, whole)
    text = whole.text
    told = [event for event in whole.events if isinstance(event, TextDelta)][:deltas]
    point = ResumePoint(
        token_ids=tuple(token for delta in told for token in delta.token_ids),
        delivered_chars=sum(len(delta.text) for delta in told),
    )
    model.submit(evolve(request, resume=point), rest)
    assert text == "ory of France."
    assert "".join(delta.text for delta in told) + rest.text == text
    assert rest.end.usage.completion_tokens == whole.end.usage.completion_tokens


def test_raw_text_goes_on_too(model: Model) -> None:
    """Without a template there are no turns, and a completion is what follows."""
    with ModelManager(isolation="thread") as models:
        raw = models.load("smollm2-135m", config=ModelConfig(n_ctx=256, chat_template="none"))
        assert ChatSession(raw).complete_prompt("The capital of France is Par").startswith("is")

"""`preload`: the model reads ahead what will be asked."""

from __future__ import annotations

import logging

import pytest

from localllm import (
    BackendError,
    ChatSession,
    GenerationEnded,
    InvalidPromptError,
    Message,
    Prompt,
    PromptTypeError,
)
from tests.by_hand import HandModel, loaded
from tests.chats import chatting, texts

U = Message.user


def test_preload_has_the_model_read_ahead() -> None:
    """History and draft are in the cache when the reply is asked for; the history does not change."""
    with chatting("one", system="Long instructions that take a while to read.") as (chat, backend):
        chat.preload("How are")
        usage = chat.send("How are you?").usage
        assert backend.requests[0].messages[-1] == U("How are you?")
        assert usage.cached_tokens >= len(chat.model.tokenize("Long instructions that take a while to read."))
        assert texts(chat.history)[1:] == ["How are you?", "one"]


def test_preload_sends_history_and_draft_and_replaces_the_one_before() -> None:
    """A new preload, undo and reset each end the one that runs; with nothing to read none is sent."""
    hand = HandModel()
    chat = ChatSession(loaded(hand), temperature=0.5)
    chat.preload()
    assert hand.requests == []
    chat.preload("a")
    chat.preload("ab")
    assert [request.messages for request in hand.requests] == [(U("a"),), (U("ab"),)]
    assert all(request.purpose == "preload" and request.options.temperature == 0.5 for request in hand.requests)
    assert hand.cancelled == [0]
    for change in (chat.undo, chat.reset):
        change()
        chat.preload("x")
    assert hand.cancelled == [0, 1, 2]


@pytest.mark.parametrize(
    ("draft", "prompt", "useful"),
    [
        ("", "anything", True),
        ("How are", "How are you?", True),
        ("How are", [U("How are you?"), Message("assistant", "Fine."), U("Good.")], True),
        ("How are", "Where are you?", False),
        ("How are", Message("tool", "How are"), False),
    ],
)
def test_a_reply_ends_a_preload_that_is_of_no_use_to_it(draft: str, prompt: Prompt, useful: bool) -> None:
    """What the reply begins with is read to the end, for the reply's sake; anything else would only be in its way."""
    hand = HandModel()
    chat = ChatSession(loaded(hand), history=[Message.system("s"), U("a"), Message("assistant", "b")])
    chat.preload(draft)
    chat.stream(prompt).cancel()
    assert hand.cancelled == ([1] if useful else [0, 1])


def test_regenerating_ends_a_preload_of_what_would_have_followed() -> None:
    """The reply that it was read after is about to be replaced."""
    hand = HandModel()
    chat = ChatSession(loaded(hand), history=[U("a"), Message("assistant", "b")])
    chat.preload("next")
    chat.stream_regenerate().cancel()
    assert hand.cancelled == [0, 1]


@pytest.mark.parametrize(("draft", "error"), [("\ud800", InvalidPromptError), (7, PromptTypeError)])
def test_a_draft_that_cannot_be_used_is_refused(draft: str, error: type[Exception]) -> None:
    """Like a prompt."""
    with chatting("one") as (chat, _), pytest.raises(error):
        chat.preload(draft)


def test_a_failed_preload_is_told_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG: it was a hint. Nothing else of it is told at all."""
    caplog.set_level(logging.DEBUG, logger="localllm.session")
    hand = HandModel()
    chat = ChatSession(loaded(hand))
    chat.preload("a")
    hand.say("this breaks the rules")
    hand.end(GenerationEnded("error", error=BackendError("no room")))
    chat.preload("b")
    hand.end(GenerationEnded("length"))
    assert chat.history == ()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", "a preload failed: no room")
    ]

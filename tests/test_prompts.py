"""What a session can be asked and begun with, and what it refuses."""

from __future__ import annotations

from typing import cast

import pytest

from localllm import (
    ChatSession,
    InvalidPromptError,
    Message,
    Prompt,
    PromptTypeError,
)
from tests.chats import chatting

U, S = Message.user, Message.system


def A(text: str) -> Message:  # noqa: N802
    """Return a message from the model."""
    return Message("assistant", text)


@pytest.mark.parametrize(
    "prompt",
    [U("b"), [U("b")], (U("a"), U("b")), [U("q"), A("few-shot"), U("b")], [Message("tool", "")]],
    ids=repr,
)
def test_a_prompt_is_text_a_message_or_a_sequence(prompt: Prompt) -> None:
    """All of it is appended to the history, then the reply."""
    with chatting("one", "two") as (chat, backend):
        chat.send("first")
        chat.send(prompt)
        given = (prompt,) if isinstance(prompt, Message) else tuple(prompt)
        assert backend.requests[1].messages == (U("first"), A("one"), *given)
        assert chat.history == (U("first"), A("one"), *given, A("two"))


def test_a_system_message_may_open_the_conversation() -> None:
    """As the very first message of the very first prompt; undo takes it back with the turn."""
    with chatting("one") as (chat, _):
        chat.send([S("Be terse."), U("Hi")])
        assert chat.history[0] == S("Be terse.")
        assert len(chat.undo()) == 3


_BAD_PROMPTS = [
    ("", InvalidPromptError, "empty"),
    ([], InvalidPromptError, "empty sequence"),
    ([U("")], InvalidPromptError, "empty"),
    (A("hi"), InvalidPromptError, "last message must be from the user or a tool, not 'assistant'"),
    ([U("hi"), A("hi")], InvalidPromptError, "'assistant'"),
    ([S("only")], InvalidPromptError, "'system'"),
    ([U("hi"), S("late"), U("hi")], InvalidPromptError, "only its very first message"),
    ("a\ud800b", InvalidPromptError, r"lone surrogate \(U\+D800\) at index 1"),
    ("a\0b", InvalidPromptError, "NUL"),
    (None, PromptTypeError, "not NoneType"),
    (7, PromptTypeError, "not int"),
    (b"hi", PromptTypeError, "bytes; decode it"),
    ({"role": "user", "content": "hi"}, PromptTypeError, r"Message\.from_dict"),
    ([{"role": "user", "content": "hi"}], PromptTypeError, r"Message\.from_dict"),
    (["hi"], PromptTypeError, "must be a Message, not str"),
    (iter([U("hi")]), PromptTypeError, "must be a str, a Message or a sequence"),
]


@pytest.mark.parametrize(("prompt", "error", "says"), _BAD_PROMPTS, ids=[case[2] for case in _BAD_PROMPTS])
def test_a_prompt_that_cannot_be_used_is_refused(prompt: object, error: type[Exception], says: str) -> None:
    """With a message that says why, before anything is sent; the session goes on."""
    with chatting("fine") as (chat, backend):
        for ask in (chat.send, chat.stream):
            with pytest.raises(error, match=says) as caught:
                ask(cast("Prompt", prompt))
            assert isinstance(caught.value, ValueError)
            assert isinstance(caught.value, TypeError) == (error is PromptTypeError)
        assert backend.requests == ()
        assert chat.send("Hi").text == "fine"


def test_a_system_message_after_the_first_is_refused() -> None:
    """Also where the session has one of its own."""
    with (
        chatting("fine", system="Be terse.") as (chat, _),
        pytest.raises(InvalidPromptError, match="only its very first message"),
    ):
        chat.send([S("again"), U("hi")])


def test_a_session_goes_on_from_a_given_history() -> None:
    """From any iterable of messages, with or without a system message of its own."""
    before = (S("Be terse."), U("a"), A("b"))
    with chatting("one", "two", history=iter(before)) as (chat, backend):
        assert chat.history == before
        chat.send("c")
        assert backend.requests[0].messages == (*before, U("c"))
        other = ChatSession(chat.model, system="Other.", history=before[1:])
        assert other.history == (S("Other."), U("a"), A("b"))


@pytest.mark.parametrize(
    ("system", "history", "error", "says"),
    [
        ("one", [S("two")], InvalidPromptError, "only its very first message"),
        (None, [U("a"), S("b")], InvalidPromptError, "message 1 .* is a system message"),
        (None, [U("")], InvalidPromptError, "empty"),
        (None, [{"role": "user", "content": "a"}], PromptTypeError, r"Message\.from_dict"),
        (None, "text", PromptTypeError, "not str"),
        (None, U("a"), PromptTypeError, "iterable of Message, not Message"),
        (None, 7, PromptTypeError, "not int"),
        (7, (), PromptTypeError, "system must be a str or None, not int"),
        ("\ud800", (), InvalidPromptError, "lone surrogate"),
    ],
)
def test_a_history_that_is_no_conversation_is_refused(
    system: str | None, history: list[Message], error: type[Exception], says: str
) -> None:
    """By the constructor, with a message that says why."""
    with chatting("fine") as (chat, _), pytest.raises(error, match=says):
        ChatSession(chat.model, system=system, history=history)


def test_an_empty_system_message_is_allowed() -> None:
    """It takes the place of the one that some templates put in by themselves."""
    with chatting("fine", system="") as (chat, _):
        assert chat.history == (S(""),)

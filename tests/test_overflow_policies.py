"""Summaries, and policies of one's own, for conversations longer than the context window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from localllm import (
    ContextOverflowError,
    ContextWindow,
    InvalidPromptError,
    Message,
    ModelConfig,
    PromptTypeError,
)
from localllm.chat.overflow import NOTE, SUMMARIZE, summary_tokens
from tests.chats import chatting, texts

U, S = Message.user, Message.system
SMALL = ModelConfig(n_ctx=200)


def A(text: str) -> Message:  # noqa: N802
    """Return a message from the model."""
    return Message("assistant", text)


def numbered(turns: int) -> list[Message]:
    """Return a conversation whose turns can be told apart, of about ten words each."""
    return [
        message
        for turn in range(turns)
        for message in (U(f"question {turn} of some words"), A(f"answer {turn} of some words"))
    ]


def test_summarize_asks_the_model_and_tells_it_the_summary() -> None:
    """The old turns are summed up by the model itself, silently; the summary is part of the system message."""
    with chatting(
        " It was about words. ",
        "fine",
        "more",
        config=SMALL,
        system="Be terse.",
        history=numbered(40),
        overflow="summarize",
    ) as (
        chat,
        backend,
    ):
        stream = chat.stream("hi", temperature=0.5, stop=["x"])
        assert [chunk.text for chunk in stream] == ["fine"]
        reply = stream.reply
        asked, sent = backend.requests
        assert asked.messages[-1] == U(SUMMARIZE)
        assert set(asked.messages[1:-1]) <= set(reply.dropped)
        assert (asked.options.temperature, asked.options.max_tokens, asked.options.stop) == (
            0.0,
            summary_tokens(200),
            (),
        )
        assert sent.messages[0] == S(f"Be terse.\n\n{NOTE}\nIt was about words.")
        assert sent.messages[1:] == chat.history[len(reply.dropped) + 1 : -1]
        assert sent.options.temperature == 0.5
        assert chat.history[0] == S("Be terse.")
        assert reply.usage.completion_tokens > len(chat.model.tokenize("fine"))
        chat.send("hi")
        assert backend.requests[-1].messages[0] == sent.messages[0]


def test_a_later_summary_covers_the_earlier_one() -> None:
    """The model is shown the old one with the turns that go now; without a system message it is in the first one."""
    script = [f"reply {number}" for number in range(60)]
    with chatting(*script, config=SMALL, overflow="summarize") as (chat, backend):
        for turn in range(30):
            chat.send(f"question {turn} of some words")
        asked = [request for request in backend.requests if request.messages[-1] == U(SUMMARIZE)]
        assert len(asked) >= 2
        assert NOTE not in asked[0].messages[0].content
        assert asked[1].messages[0].content.startswith(f"{NOTE}\nreply ")
        for request in backend.requests:
            assert sum(NOTE in message.content for message in request.messages) <= 1
            assert request.messages[0].role == "user"
        assert [message.content for message in chat.history[::2]] == [f"question {n} of some words" for n in range(30)]


def test_an_empty_or_failed_summary() -> None:
    """Without text there is none, and the turn goes on; an error is the turn's."""
    script = ("  ", "fine", ValueError("boom"))
    with chatting(*script, config=SMALL, history=numbered(40), overflow="summarize") as (chat, backend):
        other = chat.fork()
        assert chat.send("hi").text == "fine"
        assert NOTE not in backend.requests[-1].messages[0].content
        with pytest.raises(RuntimeError, match="boom"):
            other.send("hi")
        assert len(other.history) == 80


def test_a_function_decides_what_is_read() -> None:
    """It is given the conversation and the limit, may count, and what it returns is what the next turns begin with."""
    seen: list[ContextWindow] = []

    def policy(window: ContextWindow) -> Sequence[Message]:
        seen.append(window)
        kept = [S("Short."), *window.messages[window.newest :]]
        assert window.count(kept) < window.limit_tokens < 200
        return kept

    with chatting("fine", "more", config=SMALL, history=numbered(40), overflow=policy) as (chat, backend):
        reply = chat.send([U("few"), A("shots"), U("hi")])
        assert texts(backend.requests[-1].messages) == ["Short.", "few", "shots", "hi"]
        assert len(reply.dropped) == 80
        assert seen[0].messages == chat.history[:-1]
        chat.send("again")
        assert texts(backend.requests[-1].messages) == ["Short.", "few", "shots", "hi", "fine", "again"]
        assert len(seen) == 1
        chat.undo()
        chat.undo()
        assert len(chat.history) == 80


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        (lambda window: window.messages, ContextOverflowError, "what the overflow policy returned has"),
        (lambda window: window.messages[:3], InvalidPromptError, "the last one is the newest message"),
        (lambda window: [], InvalidPromptError, "there are no messages"),
        (lambda window: "hi", PromptTypeError, "messages must be a sequence of Message"),
        (lambda window: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_a_function_that_fails_fails_the_turn(
    policy: Callable[[ContextWindow], Sequence[Message]], error: type[Exception], message: str
) -> None:
    """With its own error, or with one that says what is wrong with its answer; the history stays."""
    with chatting("never", config=SMALL, history=numbered(40), overflow=policy) as (chat, _):
        with pytest.raises(error, match=message):
            chat.send("hi")
        assert len(chat.history) == 80

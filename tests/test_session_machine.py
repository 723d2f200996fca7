"""A session against a model of it: whatever is done in whatever order, the history is what was delivered."""

from __future__ import annotations

from typing import Literal, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from localllm import (
    BackendError,
    ChatSession,
    ChatStream,
    FakeReply,
    InvalidPromptError,
    Message,
    ModelManager,
    SessionBusyError,
)
from localllm.backends.fake import FakeBackend

words = st.text("abc", min_size=1, max_size=3)
replies = st.lists(words, max_size=4)
Leave = Literal["break", "cancel", "drop", "with"]
ways_to_leave = st.sampled_from(get_args(Leave))


class SessionMachine(RuleBasedStateMachine):
    """One session, its stream if one is open, and what the history should be: a list of turns, each of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.next: FakeReply = FakeReply()
        self.models = ModelManager(FakeBackend(iter(lambda: self.next, None)))
        self.stream: ChatStream | None = None
        self.delivered = ""
        self.asked: list[Message] = []
        self.again = False
        self.turns: list[list[Message]] = []

    @initialize(system=st.none() | words)
    def begin(self, system: str | None) -> None:
        self.chat = ChatSession(self.models.load("fake"), system=system)
        self.system = [] if system is None else [Message.system(system)]

    def teardown(self) -> None:
        self.stream = None
        self.models.close()

    @property
    def idle(self) -> bool:
        return self.stream is None

    @invariant()
    def history_is_what_was_delivered(self) -> None:
        if hasattr(self, "system"):
            assert list(self.chat.history) == self.system + [message for turn in self.turns for message in turn]

    def answer(self, chunks: list[str]) -> None:
        self.next = FakeReply(chunks=chunks)

    def keep(self, text: str) -> None:
        reply = Message("assistant", text)
        if self.again:
            self.turns[-1][-1] = reply
        else:
            self.turns.append([*self.asked, reply])

    @precondition(lambda self: self.idle)
    @rule(prompt=words, few_shot=st.booleans(), chunks=replies)
    def send(self, prompt: str, few_shot: bool, chunks: list[str]) -> None:
        self.answer(chunks)
        shots = [Message.user("q"), Message("assistant", "a")] if few_shot else []
        self.asked, self.again = [*shots, Message.user(prompt)], False
        assert self.chat.send(self.asked).text == "".join(chunks)
        self.keep("".join(chunks))

    @precondition(lambda self: self.idle)
    @rule(chunks=replies, data=st.data())
    def fail(self, chunks: list[str], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(chunks)))
        self.next = FakeReply(chunks=chunks, error=ValueError("boom"), error_at=at)
        with pytest.raises(BackendError) as caught:
            self.chat.send("x")
        assert caught.value.reply is not None
        assert caught.value.reply.text == "".join(chunks[:at])

    @precondition(lambda self: self.idle and self.turns)
    @rule(chunks=replies)
    def regenerate(self, chunks: list[str]) -> None:
        self.answer(chunks)
        self.again = True
        assert self.chat.regenerate().text == "".join(chunks)
        self.keep("".join(chunks))

    @precondition(lambda self: self.idle and not self.turns)
    @rule()
    def nothing_to_regenerate(self) -> None:
        with pytest.raises(InvalidPromptError):
            self.chat.regenerate()

    @precondition(lambda self: self.idle)
    @rule(prompt=words, chunks=replies, again=st.booleans())
    def open_stream(self, prompt: str, chunks: list[str], again: bool) -> None:
        self.answer(chunks)
        self.again = again and bool(self.turns)
        self.asked = [Message.user(prompt)]
        self.stream = self.chat.stream_regenerate() if self.again else self.chat.stream(prompt)
        self.delivered, self.chunks = "", chunks

    @precondition(lambda self: not self.idle)
    @rule()
    def read_one(self) -> None:
        assert self.stream is not None
        chunk = next(self.stream, None)
        if chunk is not None:
            assert chunk.text == self.chunks[chunk.index]
            self.delivered += chunk.text
        else:
            assert self.delivered == "".join(self.chunks)
            self.stream = None
            self.keep(self.delivered)

    @precondition(lambda self: not self.idle)
    @rule()
    def read_all(self) -> None:
        assert self.stream is not None
        assert self.stream.reply.text == "".join(self.chunks)
        self.stream = None
        self.keep("".join(self.chunks))

    @precondition(lambda self: not self.idle)
    @rule(way=ways_to_leave)
    def leave(self, way: Leave) -> None:
        stream, self.stream = self.stream, None
        assert stream is not None
        match way:
            case "break":
                for chunk in stream:
                    self.delivered += chunk.text
                    break
                else:  # there was nothing left, so the loop has seen the end
                    self.keep(self.delivered)
                    return
            case "cancel":
                stream.cancel()
            case "with":
                with stream:
                    pass
            case "drop":
                pass
        if way != "drop":
            assert (stream.reply.text, stream.reply.finish_reason) == (self.delivered, "cancelled")
        del stream
        if self.delivered:
            self.keep(self.delivered)

    @precondition(lambda self: not self.idle)
    @rule()
    def busy(self) -> None:
        for call in (self.chat.undo, self.chat.reset, lambda: self.chat.send("x"), self.chat.regenerate):
            with pytest.raises(SessionBusyError):
                call()

    @precondition(lambda self: self.idle)
    @rule()
    def undo(self) -> None:
        assert list(self.chat.undo()) == (self.turns.pop() if self.turns else [])

    @precondition(lambda self: self.idle)
    @rule()
    def reset(self) -> None:
        self.chat.reset()
        self.turns = []

    @precondition(lambda self: self.idle)
    @rule(draft=words)
    def preload(self, draft: str) -> None:
        self.chat.preload(draft)

    @rule()
    def fork(self) -> None:
        forked = self.chat.fork()
        assert forked.history == self.chat.history
        if self.idle:
            self.chat = forked


SessionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSession = SessionMachine.TestCase

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
    ToolCall,
)
from localllm.backends.fake import FakeBackend

words = st.text("abc", min_size=1, max_size=3)
replies = st.lists(words, max_size=4)
rounds = st.lists(st.tuples(replies, st.integers(1, 2)), max_size=2)
"""What comes before the answer: each time some text, and so many calls."""

Leave = Literal["break", "cancel", "drop", "with"]
ways_to_leave = st.sampled_from(get_args(Leave))


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


class SessionMachine(RuleBasedStateMachine):
    """One session, its stream if one is open, and what the history should be: a list of turns, each of messages."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[FakeReply] = []
        self.models = ModelManager(FakeBackend(iter(lambda: self.script.pop(0), None)))
        self.stream: ChatStream | None = None
        self.stages: list[list[str]] = []
        self.calls: list[list[ToolCall]] = []
        self.delivered = 0
        self.asked: list[Message] = []
        self.again = False
        self.turns: list[list[Message]] = []
        self.prompts: list[int] = []  # how many messages of each turn are its prompt

    @initialize(system=st.none() | words)
    def begin(self, system: str | None) -> None:
        self.chat = ChatSession(self.models.load("fake"), system=system, tools=[double])
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

    def answer(self, before: list[tuple[list[str], int]], chunks: list[str]) -> None:
        """Have the model call tools, and then answer."""
        self.stages = [*(text for text, _ in before), chunks]
        self.calls = [
            [ToolCall("double", {"n": n}, f"{place}.{n}") for n in range(c)] for place, (_, c) in enumerate(before)
        ]
        calling = zip(self.stages, self.calls, strict=False)
        self.script = [FakeReply(chunks=text, tool_calls=calls) for text, calls in calling]
        self.script.append(FakeReply(chunks=chunks))
        self.delivered = 0

    @property
    def pieces(self) -> list[str]:
        return [piece for stage in self.stages for piece in stage]

    def keep(self, delivered: int | None = None) -> str:
        """Note that the turn is kept, with so many pieces or all of it; return the text of its last message."""
        made: list[Message] = []
        left = len(self.pieces) if delivered is None else delivered
        for stage, calls in zip(self.stages, [*self.calls, []], strict=True):
            last = not calls if delivered is None else left <= len(stage)
            made.append(Message("assistant", "".join(stage[:left]), tool_calls=[] if last else calls))
            if last:
                break
            made += [Message("tool", str(2 * n), tool_call_id=call.id) for n, call in enumerate(calls)]
            left -= len(stage)
        if self.again:
            self.turns[-1] = self.turns[-1][: self.prompts[-1]] + made
        else:
            self.turns.append([*self.asked, *made])
            self.prompts.append(len(self.asked))
        return made[-1].content

    @precondition(lambda self: self.idle)
    @rule(prompt=words, few_shot=st.booleans(), before=rounds, chunks=replies)
    def send(self, prompt: str, few_shot: bool, before: list[tuple[list[str], int]], chunks: list[str]) -> None:
        self.answer(before, chunks)
        shots = [Message.user("q"), Message("assistant", "a")] if few_shot else []
        self.asked, self.again = [*shots, Message.user(prompt)], False
        reply = self.chat.send(self.asked)
        assert reply.text == self.keep()
        assert [result.call for result in reply.tool_results] == [call for calls in self.calls for call in calls]

    @precondition(lambda self: self.idle)
    @rule(chunks=replies, data=st.data())
    def fail(self, chunks: list[str], data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(chunks)))
        self.script = [FakeReply(chunks=chunks, error=ValueError("boom"), error_at=at)]
        with pytest.raises(BackendError) as caught:
            self.chat.send("x")
        assert caught.value.reply is not None
        assert caught.value.reply.text == "".join(chunks[:at])

    @precondition(lambda self: self.idle and self.turns)
    @rule(before=rounds, chunks=replies)
    def regenerate(self, before: list[tuple[list[str], int]], chunks: list[str]) -> None:
        self.answer(before, chunks)
        self.again = True
        assert self.chat.regenerate().text == self.keep()

    @precondition(lambda self: self.idle)
    @rule(prompt=words, before=rounds, chunks=replies)
    def fail_after_tools(self, prompt: str, before: list[tuple[list[str], int]], chunks: list[str]) -> None:
        self.answer(before, chunks)
        self.script[-1] = FakeReply(chunks=chunks, error=ValueError("boom"))
        with pytest.raises(BackendError):
            self.chat.send(prompt)

    @precondition(lambda self: self.idle and not self.turns)
    @rule()
    def nothing_to_regenerate(self) -> None:
        with pytest.raises(InvalidPromptError):
            self.chat.regenerate()

    @precondition(lambda self: self.idle)
    @rule(prompt=words, before=rounds, chunks=replies, again=st.booleans())
    def open_stream(self, prompt: str, before: list[tuple[list[str], int]], chunks: list[str], again: bool) -> None:
        self.answer(before, chunks)
        self.again = again and bool(self.turns)
        self.asked = [Message.user(prompt)]
        self.stream = self.chat.stream_regenerate() if self.again else self.chat.stream(prompt)

    @precondition(lambda self: not self.idle)
    @rule()
    def read_one(self) -> None:
        assert self.stream is not None
        chunk = next(self.stream, None)
        if chunk is not None:
            assert (chunk.index, chunk.text) == (self.delivered, self.pieces[self.delivered])
            self.delivered += 1
        else:
            assert self.delivered == len(self.pieces)
            self.stream = None
            self.keep()

    @precondition(lambda self: not self.idle)
    @rule()
    def read_all(self) -> None:
        assert self.stream is not None
        stream, self.stream = self.stream, None
        assert stream.reply.text == self.keep()

    @precondition(lambda self: not self.idle)
    @rule(way=ways_to_leave)
    def leave(self, way: Leave) -> None:
        stream, self.stream = self.stream, None
        assert stream is not None
        match way:
            case "break":
                for _ in stream:
                    self.delivered += 1
                    break
                else:  # there was nothing left, so the loop has seen the end
                    self.keep()
                    return
            case "cancel":
                stream.cancel()
            case "with":
                with stream:
                    pass
            case "drop":
                pass
        text = self.keep(self.delivered) if self.delivered else ""
        if way != "drop":
            assert (stream.reply.text, stream.reply.finish_reason) == (text, "cancelled")
        del stream

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
        del self.prompts[len(self.turns) :]

    @precondition(lambda self: self.idle)
    @rule()
    def reset(self) -> None:
        self.chat.reset()
        self.turns, self.prompts = [], []

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

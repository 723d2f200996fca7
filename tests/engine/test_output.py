"""From tokens to events: what a fold, stop strings and the detokenizer make of a reply, together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.output import Output
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallEvent,
    ToolCallStarted,
    Usage,
)

Event = TextDelta | ToolCallEvent


class BracketFold:
    """Takes what stands in (round) brackets for a thought and what stands in [square] ones for a call."""

    close_thought = ")"

    def __init__(self) -> None:
        self.calls: tuple[ToolCall, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.taken_chars: int = 0
        self._inside = ""

    @property
    def thinking(self) -> bool:
        """Whether a round bracket is open."""
        return self._inside == "("

    def push(self, text: str) -> list[Event]:
        """Return an event for each character."""
        return [event for char in text for event in self._events(char)]

    def flush(self) -> list[Event]:
        """Nothing is ever held back."""
        return []

    def _events(self, char: str) -> list[Event]:
        index = len(self.calls)
        if char in "([" and not self._inside:
            self._inside = char
            return [ToolCallStarted(index, "", "f")] if char == "[" else []
        if char == ")" and self._inside == "(":
            self._inside = ""
            return []
        if char == "]" and self._inside == "[":
            self._inside = ""
            self.calls += (ToolCall("f"),)
            return [ToolCallEnded(index, self.calls[-1])]
        if self._inside == "[":
            return [ToolCallDelta(index, char)]
        return [TextDelta(char, "thought" if self._inside else "text")]


class Reply:
    """A reply that is made of characters as tokens, and the events that came of it."""

    def __init__(
        self, stop: tuple[str, ...] = (), *, fold: BracketFold | None = None, delivered_chars: int | None = None
    ) -> None:
        self.events: list[BackendEvent] = []
        self.output = Output(self.events.append, stop, 0.0, "toy", fold, delivered_chars)

    def say(self, text: str, *, repeated: bool = False) -> Reply:
        """Take the characters, up to a stop."""
        for char in text:
            if not self.output.stopped:
                self.output.token(ord(char), char.encode(), 0.0, repeated=repeated)
        return self

    def end(self) -> GenerationEnded:
        """End it."""
        self.output.end("stop", 0.0, Usage(), (1,))
        ended = self.events[-1]
        assert isinstance(ended, GenerationEnded)
        return ended

    def text(self, segment: str) -> str:
        """Return what was delivered of a segment."""
        return "".join(e.text for e in self.events if isinstance(e, TextDelta) and e.segment == segment)

    @property
    def told(self) -> str:
        """The tokens that events told of, as characters."""
        kinds = (TextDelta, ToolCallStarted, ToolCallDelta, ToolCallEnded)
        return "".join(chr(token) for e in self.events if isinstance(e, kinds) for token in e.token_ids)


def test_thoughts_and_calls_are_told_apart_and_a_stop_ends_as_a_request_for_calls() -> None:
    """The calls come with the end."""
    reply = Reply(fold=BracketFold()).say("a(bc)d[ef]g")
    ended = reply.end()
    assert (reply.text("text"), reply.text("thought")) == ("adg", "bc")
    assert [type(event).__name__ for event in reply.events if not isinstance(event, TextDelta)] == [
        "ToolCallStarted", "ToolCallDelta", "ToolCallDelta", "ToolCallEnded", "GenerationEnded",
    ]  # fmt: skip
    assert (ended.finish_reason, ended.tool_calls) == ("tool_calls", (ToolCall("f"),))


def test_thought_tokens_are_those_generated_within_a_thought() -> None:
    """The one that closes it is one of them, the one that opens it is not."""
    reply = Reply(fold=BracketFold()).say("a(bc)d")
    assert reply.output.thought_tokens == 3


def test_each_event_tells_the_tokens_since_the_one_before() -> None:
    """So that whoever continues the reply elsewhere knows how far the events go, in the middle of a call, too."""
    reply = Reply(fold=BracketFold()).say("a(b)c[de")
    assert reply.told == "a(b)c[de"


def test_what_an_earlier_run_delivered_is_not_delivered_again() -> None:
    """Text, thoughts and calls alike; what follows is read as it would have been."""
    reply = Reply(fold=BracketFold()).say("a(b)c[d", repeated=True).say("e]f")
    ended = reply.end()
    assert reply.events == [ToolCallDelta(0, "e"), ToolCallEnded(0, ToolCall("f")), TextDelta("f"), ended]
    assert reply.told == "e]f"


@given(st.text("ab()", max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_of_an_earlier_runs_text_what_it_did_not_deliver_is_delivered(said: str, cut: int, delivered: int) -> None:
    """Its tokens are known then, so that the whole text is what it would have been."""
    whole = Reply(fold=BracketFold()).say(said)
    chars = "".join(event.text for event in whole.events if isinstance(event, TextDelta))
    first = Reply(fold=BracketFold()).say(said[:cut])
    before = "".join(event.text for event in first.events if isinstance(event, TextDelta))[:delivered]
    again = Reply(fold=BracketFold(), delivered_chars=len(before)).say(said[:cut], repeated=True).say(said[cut:])
    assert before + "".join(event.text for event in again.events if isinstance(event, TextDelta)) == chars


def test_a_stop_is_found_across_a_thought_and_no_part_of_it_is_shown() -> None:
    """Text that may become a stop waits, while the thought in its middle is delivered."""
    reply = Reply(("END",), fold=BracketFold()).say("abE(thought END)ND more")
    ended = reply.end()
    assert (reply.text("text"), reply.text("thought")) == ("ab", "thought END")
    assert ended.finish_reason == "stop"
    assert ended.token_ids is None


@given(st.text("ab()[]x", max_size=30), st.lists(st.text("abx", min_size=1, max_size=3), max_size=3).map(tuple))
def test_stops_end_the_text_alone_wherever_thoughts_and_calls_stand_in_it(said: str, stops: tuple[str, ...]) -> None:
    """The text is that of the fold up to its first stop; nothing of a stop is ever shown."""
    free = Reply(fold=BracketFold()).say(said)
    free.end()
    whole = free.text("text")
    starts = [whole.find(stop) for stop in stops if stop in whole]
    held = Reply(stops, fold=BracketFold())
    for char in said:
        held.say(char)
        assert whole[: min(starts, default=len(whole))].startswith(held.text("text"))
    held.end()
    assert held.text("text") == whole[: min(starts, default=len(whole))]
    if not starts:
        assert held.text("thought") == free.text("thought")


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    """Also where a token brings no text of its own."""
    reply = Reply()
    first, second = TokenLogprob(1, "\ufffd", -1.0), TokenLogprob(2, "\ufffd", -2.0)
    reply.output.token(1, "é".encode()[:1], 0.0, logprob=first)
    reply.output.token(2, "é".encode()[1:], 0.0, logprob=second)
    assert reply.events == [TextDelta("é", logprobs=(first, second))]


def test_an_end_mark_is_read_and_is_no_token_of_the_reply() -> None:
    """A family's control token may close a call and end the reply at once."""
    reply = Reply(fold=BracketFold()).say("[a")
    reply.output.marker(b"]")
    assert reply.end().finish_reason == "tool_calls"
    assert reply.told == "[a"


def test_a_fold_that_fails_at_the_end_does_not_keep_the_reply_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    """What was held back for a stop is delivered, the failure is logged."""

    class Broken(BracketFold):
        def flush(self) -> list[Event]:
            raise RuntimeError("a mistake in a fold")

    reply = Reply(("xyz",), fold=Broken()).say("abx")
    assert reply.end().finish_reason == "stop"
    assert reply.text("text") == "abx"
    assert "a mistake in a fold" in caplog.text

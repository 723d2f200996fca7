"""Replies whose beginning the caller has given: what comes after it is told, once, whatever the beginning ends with."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from localllm.chat.dialects.prefixed import PrefixedParser
from localllm.types import TextDelta, ToolCallDelta, ToolCallEnded, ToolCallStarted
from tests.chat.dialects.outputs import OUTPUTS
from tests.chat.dialects.rows import DIALECTS, TOOLS, plain, take

WHOLE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def told(name: str, prefix: str, *parts: str) -> tuple[str, PrefixedParser]:
    """Return the text that a caller has at the end, and what took the reply apart."""
    parser = PrefixedParser(DIALECTS[name].parser(TOOLS), prefix)
    events = [event for part in parts for event in parser.push(part)] + parser.flush()
    said = "".join(event.text for event in events if isinstance(event, TextDelta) and event.segment == "text")
    return prefix[: len(prefix) - parser.taken_chars] + said, parser


@pytest.mark.parametrize("name", DIALECTS)
def test_a_reply_cut_anywhere_goes_on_to_what_it_would_have_been(name: str) -> None:
    """The text that there was, as `max_tokens` left it, is given as the prefix of the rest: same text, same calls."""
    replies = [output.reply for output in OUTPUTS if output.dialect == name] + ["Well,  a < b and\n\nc.", WHOLE]

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(replies), st.data())
    def check(reply: str, data: st.DataObject) -> None:
        cut = data.draw(st.integers(1, len(reply)))
        middle = data.draw(st.integers(cut, len(reply)))
        before = take(DIALECTS[name].parser(TOOLS), reply[:cut])
        assume(before.text == reply[:cut] and not before.calls)  # else the session has more of it than a text
        whole = take(DIALECTS[name].parser(TOOLS), reply)
        text, parser = told(name, reply[:cut], reply[cut:middle], reply[middle:])
        assert (text, plain(parser.calls)) == (whole.text, whole.calls)

    check()


@pytest.mark.parametrize(
    ("prefix", "rest", "text"),
    [
        ("Well, ", "I think", "Well, I think"),
        ("In HTML, a <", "b> tag", "In HTML, a <b> tag"),
        ("Sure.\n<tool_c", "an>", "Sure.\n<tool_can>"),
        ("Sure.\n<tool_c", "", "Sure.\n<tool_c"),
        ("Sure.\n<tool_c", WHOLE.removeprefix("<tool_c"), "Sure."),
        ("Sure.", f"\n{WHOLE}", "Sure."),
        (" ", "Yes", " Yes"),
    ],
)
def test_nothing_of_the_prefix_is_told_again(prefix: str, rest: str, text: str) -> None:
    """White space and half of a mark at its end are text that the caller has, or no text."""
    assert told("hermes", prefix, *rest)[0] == text


def test_a_call_that_the_prefix_has_begun_is_told_from_its_start() -> None:
    """Nobody has been told of it yet: it was text."""
    parser = PrefixedParser(DIALECTS["hermes"].parser(TOOLS), WHOLE[:50])
    events = parser.push(WHOLE[50:]) + parser.flush()
    assert events[0] == ToolCallStarted(0, "call00000", "get_weather")
    assert isinstance(events[-1], ToolCallEnded)
    pieces = [event.arguments for event in events if isinstance(event, ToolCallDelta)]
    assert "".join(pieces) == '{"city": "Rome"}'
    assert parser.taken_chars == 50


@pytest.mark.parametrize(
    ("name", "cut", "noted"),
    [
        ("hermes", "Sure. <tool_c", "<tool_c"),
        ("hermes", "Sure. <", None),
        ("hermes", "Sure.", None),
        ("hermes", WHOLE[:30], WHOLE[:30]),
        ("gpt-oss", "<|channel|>commentary to=functions.now", "<|channel|>commentary to=functions.now"),
        ("gpt-oss", '<|channel|>commentary to=functions.now<|message|>{"a', "<|channel|>commentary to=functions.now"),
        ("gpt-oss", "<|channel|>final<|message|>We", None),
    ],
)
def test_a_call_that_was_cut_off_is_noted(name: str, cut: str, noted: str | None) -> None:
    """Also within its opening mark, from its second character on; all of it stays text."""
    parser = DIALECTS[name].parser(TOOLS)
    taken = take(parser, cut)
    assert not taken.calls
    assert (noted is None) == (parser.notes == ())
    if noted is not None:
        assert repr(noted)[1:-1] in parser.notes[0]
        assert noted in taken.text
    untold = DIALECTS[name].parser(())
    take(untold, cut)
    assert untold.notes == ()

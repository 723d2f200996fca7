"""Of any text whatever: nothing is lost, nothing raises, and the stream's cuts do not matter."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.dialects import Dialect
from localllm.types import TextDelta, ToolCallDelta, ToolCallEnded, ToolCallStarted
from tests.chat.dialects.outputs import OUTPUTS
from tests.chat.dialects.rows import DIALECTS, TOOLS, plain, take

_SCRAPS = (
    "get_weather",
    "now",
    '{"name": "now"',
    '{"city": "Rome"}',
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\\",
    "\n",
    " ",
)
_PARTS = re.compile(r"<[^<>]*>|\[[A-Z_]+\]|\s+|[\w.]+|.", re.DOTALL)


def _texts(name: str) -> st.SearchStrategy[str]:
    """Texts of a family's own marks and of scraps of its replies, put together at random."""
    replies = [output.reply for output in OUTPUTS if output.dialect == name]
    scraps = {part for reply in replies for part in _PARTS.findall(reply)} | set(_SCRAPS) | set(DIALECTS[name].markers)
    pieces = st.sampled_from(sorted(scraps)) | st.sampled_from(replies) | st.text(max_size=4)
    shuffled = st.lists(pieces, max_size=24).map("".join)
    damaged = st.tuples(st.sampled_from(replies), st.integers(0, 400), st.integers(1, 9), pieces).map(_damage)
    return shuffled | damaged


def _damage(given: tuple[str, int, int, str]) -> str:
    reply, at, length, scrap = given
    return reply[:at] + scrap + reply[at + length :]


@st.composite
def _cut(draw: st.DrawFn, name: str) -> tuple[str, list[str]]:
    """A text, and the same in parts."""
    text = draw(_texts(name))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    ends = [*cuts, len(text)]
    return text, [text[start:end] for start, end in zip([0, *cuts], ends, strict=True)]


@pytest.mark.parametrize("name", DIALECTS)
def test_any_text_is_taken_apart_without_loss_however_it_is_cut(name: str) -> None:
    """`take` holds that the pieces put together are the text, and that the events tell of the calls there are."""
    dialect = DIALECTS[name]

    @settings(max_examples=25, deadline=None)
    @given(_cut(name), st.booleans(), st.booleans())
    def check(cut: tuple[str, list[str]], in_thought: bool, exact: bool) -> None:
        text, parts = cut
        whole = take(dialect.parser(TOOLS, in_thought=in_thought, exact=exact), text)
        assert take(dialect.parser(TOOLS, in_thought=in_thought, exact=exact), *parts) == whole

    check()


@pytest.mark.parametrize("name", DIALECTS)
@given(text=st.text(alphabet="ab {}\n\"'\\:,[]()<>/=0é", max_size=80))
@settings(max_examples=20, deadline=None)
def test_text_without_a_family_s_marks_is_text(name: str, text: str) -> None:
    """Not a character is taken for anything else, white space at the ends included."""
    dialect = DIALECTS[name]
    opening = dialect.syntax.text_open.removeprefix(dialect.syntax.virtual) if dialect.syntax.virtual else ""
    for tools in (TOOLS, ()):
        assert take(dialect.parser(tools), opening, *text).text == text


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_marks_over_and_over_take_no_more_than_their_time(dialect: Dialect) -> None:
    """A reply of nothing but beginnings of calls is text, and read in time that grows with its length."""
    openings = [part for part in (dialect.syntax.calls.section_open, dialect.syntax.calls.open) if part]
    for opening in openings or ["{"]:
        text = opening.replace("␣", "") * 3000
        taken = take(dialect.parser(TOOLS), text)
        assert not taken.calls
        assert len(taken.text) >= len(text) // 3


def test_deltas_and_text_come_as_soon_as_they_are_certain() -> None:
    """Arguments in JSON are told of as they come; text up to what may be the beginning of a mark."""
    parser = DIALECTS["hermes"].parser(TOOLS)
    assert parser.push("Well <to") == [TextDelta("Well")]
    assert parser.push("wn>") == [TextDelta(" <town>")]
    assert parser.push('\n<tool_call>\n{"name": "get_weather", "arg') == []
    assert parser.push('uments": {"ci') == [ToolCallStarted(0, "call00000", "get_weather"), ToolCallDelta(0, '{"ci')]
    assert parser.push('ty": "Ro') == [ToolCallDelta(0, 'ty": "Ro')]
    ended = parser.push('me"}}')
    assert ended == [ToolCallDelta(0, 'me"}'), ToolCallEnded(0, parser.calls[0])]
    assert parser.push("\n</tool_call>") + parser.flush() == []
    assert plain(parser.calls) == (("get_weather", {"city": "Rome"}),)


def test_arguments_between_marks_are_told_of_one_by_one() -> None:
    """In JSON all the same, each as soon as it is whole."""
    parser = DIALECTS["qwen3-coder"].parser(TOOLS)
    assert parser.push("<tool_call>\n<function=get_weather>\n<parameter=city>\nRo") == [
        ToolCallStarted(0, "call00000", "get_weather")
    ]
    assert parser.push("me\n</parameter>\n") == [ToolCallDelta(0, '{"city": "Rome"')]
    assert parser.push("<parameter=days>\n2\n</parameter>") == [ToolCallDelta(0, ', "days": 2')]
    assert parser.push("\n</function>")[:1] == [ToolCallDelta(0, "}")]


def test_flushing_twice_and_pushing_nothing_do_no_harm() -> None:
    """The second flush has nothing to tell."""
    parser = DIALECTS["generic"].parser(TOOLS)
    assert parser.push("") == []
    assert parser.push("Hello ") == [TextDelta("Hello")]
    assert parser.flush() == [TextDelta(" ")]
    assert parser.flush() == []

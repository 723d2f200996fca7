"""Every family's replies, whole and cut at every character, mean what the table says."""

from __future__ import annotations

import pytest

from localllm.types import TextDelta
from tests.chat.dialects.outputs import OUTPUTS
from tests.chat.dialects.outputs_base import Output
from tests.chat.dialects.rows import CALLS, DIALECTS, TOOLS, Taken, plain, take

_IDS = [f"{output.dialect}-{index}" for index, output in enumerate(OUTPUTS)]


@pytest.mark.parametrize("output", OUTPUTS, ids=_IDS)
def test_a_reply_means_the_same_however_it_is_cut(output: Output) -> None:
    """Whole, a character at a time, and in two parts at every place."""
    dialect, reply = DIALECTS[output.dialect], output.reply
    meant = Taken(output.text, output.thought, output.calls)
    cuts = [[reply], list(reply), *([reply[:at], reply[at:]] for at in range(1, len(reply)))]
    for parts in cuts:
        assert take(dialect.parser(TOOLS, in_thought=output.in_thought), *parts) == meant, parts


def test_every_dialect_has_a_reply_with_a_call() -> None:
    """So that no row of the table goes untested; "deepseek" is for templates without tools."""
    assert {output.dialect for output in OUTPUTS if output.calls} | {"deepseek"} == set(DIALECTS)


@pytest.mark.parametrize("output", OUTPUTS, ids=_IDS)
def test_without_tools_there_are_no_calls(output: Output) -> None:
    """Their marks are text then; thoughts are thoughts all the same."""
    for tool_choice, tools in (("none", TOOLS), ("auto", ())):
        parser = DIALECTS[output.dialect].parser(tools, tool_choice=tool_choice, in_thought=output.in_thought)
        taken = take(parser, *output.reply)
        assert not taken.calls
        if not output.calls:
            assert (taken.text, taken.thought) == (output.text, output.thought)


@pytest.mark.parametrize("output", [output for output in OUTPUTS if output.thought], ids=lambda output: output.dialect)
def test_thoughts_are_left_out_if_that_is_wished(output: Output) -> None:
    """The rest stays as it is."""
    parser = DIALECTS[output.dialect].parser(TOOLS, in_thought=output.in_thought, drop_thoughts=True)
    assert take(parser, *output.reply) == Taken(output.text, "", output.calls)


@pytest.mark.parametrize("name", DIALECTS)
def test_what_a_family_writes_is_read_back(name: str) -> None:
    """`write_calls` and the parser agree, on several calls where the family makes several."""
    dialect = DIALECTS[name]
    calls = CALLS if dialect.syntax.calls.parallel else CALLS[:1]
    written = dialect.write_calls(calls).removeprefix(dialect.syntax.virtual)
    assert take(dialect.parser(TOOLS), *written) == Taken("", "", plain(calls))


@pytest.mark.parametrize("name", [name for name, dialect in DIALECTS.items() if dialect.syntax.thought])
def test_closing_a_thought_begins_the_text(name: str) -> None:
    """`close_thought`, fed to the parser within a thought, ends it, and what follows is text."""
    parser = DIALECTS[name].parser(TOOLS, in_thought=True)
    events = parser.push("Hm")
    assert parser.thinking
    events += parser.push(parser.close_thought)
    assert not parser.thinking
    events += parser.push("Hello.") + parser.flush()
    assert events == [TextDelta("Hm", "thought"), TextDelta("Hello.", "text")]

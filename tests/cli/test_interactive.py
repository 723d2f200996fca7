"""`localllm chat`: a conversation, its commands, and the keys that a person presses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import pytest

from localllm.cli.interactive import COMMANDS, converse
from localllm.cli.loading import ChatSettings
from localllm.cli.terminal import Terminal
from tests.cli import echo
from tests.cli.screen import CTRL_C, CTRL_D, screen

ECHO = ("--backend", echo.PATH)


def typing(lines: Iterable[str | type[BaseException]]) -> Callable[[str], str]:
    """What stands in for `input`: returns each line, raises each exception, and then the end of input."""
    waiting = iter(lines)

    def read(prompt: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def talk(*lines: str | type[BaseException], system: str | None = None, max_tokens: int | None = None) -> list[str]:
    """Hold a conversation; return the lines that were shown, notes and errors among them."""
    shown = io.StringIO()
    settings = ChatSettings(model="any", backend=echo.PATH, system=system, options={"max_tokens": max_tokens})
    assert converse(settings, Terminal(None, shown, shown), typing(lines)) == 0
    return shown.getvalue().splitlines()[1:]


def test_it_begins_with_the_model_and_the_way_out() -> None:
    """The first line says what one talks to, and how to leave."""
    shown = io.StringIO()
    settings = ChatSettings(model="any", backend=echo.PATH, options={})
    assert converse(settings, Terminal(None, shown, shown), typing([])) == 0
    assert shown.getvalue().startswith("any, context of ")
    assert "/quit" in shown.getvalue()


def test_a_conversation_remembers() -> None:
    """The second message is the third of the conversation."""
    assert talk("Hello", "Again", "/quit") == ["1 Hello", "3 Again"]


def test_empty_lines_are_not_sent() -> None:
    """Enter on its own does nothing."""
    assert talk("", "   ", "Hello") == ["1 Hello", ""]


@pytest.mark.parametrize("name", ["/quit", "/exit", "/bye", "/QUIT"])
def test_leaving_has_the_names_that_people_try(name: str) -> None:
    """Nothing after it is read."""
    assert talk(name, "Hello") == []


def test_help_lists_every_command() -> None:
    """With the keys, too."""
    text = "\n".join(talk("/help", "/quit"))
    for command in COMMANDS:
        assert all(name in text for name in command.names)
    assert "Ctrl-C" in text


def test_reset_forgets_but_keeps_the_system_message() -> None:
    """The next message is the first again."""
    assert talk("Hello", "/reset", "Again", "/quit", system="S") == [
        "2 Hello (S)",
        "the conversation starts anew",
        "2 Again (S)",
    ]


def test_undo_takes_a_turn_back() -> None:
    """The next message comes where the one taken back was; of nothing, nothing is taken."""
    assert talk("Hello", "Oops", "/undo", "Again", "/reset", "/undo", "/quit") == [
        "1 Hello",
        "3 Oops",
        "taken back: Oops",
        "3 Again",
        "the conversation starts anew",
        "nothing to take back",
    ]


@pytest.mark.parametrize("name", ["/regenerate", "/regen", "/retry"])
def test_regenerate_answers_again(name: str) -> None:
    """The same message, the conversation no longer."""
    assert talk("Hello", name, "More", "/quit") == ["1 Hello", "1 Hello", "3 More"]


def test_regenerate_of_nothing_is_an_error_and_no_end() -> None:
    """The conversation goes on."""
    shown = talk("/regenerate", "Hello", "/quit")
    assert shown[0].startswith("error: ")
    assert shown[-1] == "1 Hello"


def test_the_system_message_changes_and_the_conversation_stays() -> None:
    """Shown, set, and taken away."""
    assert talk("/system", "One", "/system Be brief.", "Two", "/system", "/system off", "Three", "/quit") == [
        "no system message; /system TEXT sets one",
        "1 One",
        "system message set",
        "4 Two (Be brief.)",
        "Be brief.",
        "no system message from now on",
        "5 Three",
    ]


def test_stats_has_the_figures() -> None:
    """First token, tokens/s and cached tokens of the last reply; sums of the model."""
    before, *after = talk("/stats", "Hello", "/stats", "/quit")
    assert before.startswith("since loading: replies: 0")
    text = "\n".join(after)
    for word in ("last reply: first token", "tokens/s", "cached", "since loading: replies: 1"):
        assert word in text


def test_an_unknown_command_is_not_sent_to_the_model() -> None:
    """The nearest one is named, and how to send such a line all the same."""
    unknown, far, taken, sent = talk("/rest", "/xyzzy", "/quit now", "//etc", "/quit")
    assert "did you mean /reset?" in unknown
    assert "/help lists the commands" in far
    assert taken == "/quit takes nothing after it"
    assert sent == "1 /etc"


def test_quotes_hold_several_lines() -> None:
    """Between two lines of three quotes, Enter does not send."""
    assert talk('"""Dear Sir,', "", 'goodbye"""', '"""one line"""', "/quit") == [
        "1 Dear Sir,",
        "",
        "goodbye",
        "3 one line",
    ]


def test_ctrl_c_while_several_lines_are_typed_throws_them_away() -> None:
    """And not the conversation."""
    assert talk('"""Dear', KeyboardInterrupt, "Hello", "/quit")[-1] == "1 Hello"


def test_an_error_is_one_line_and_the_conversation_goes_on() -> None:
    """A failed turn leaves the history as it was."""
    assert talk("fail", "Hello", "/quit") == ["half a ", "error: the device was unplugged", "1 Hello"]


def test_a_cut_off_reply_is_told() -> None:
    """So that nobody takes half a sentence for a whole one."""
    shown = talk("forever", "/quit", max_tokens=3)
    assert shown[0] == "on on"
    assert shown[1].startswith("cut off")


def test_a_full_context_says_what_makes_room() -> None:
    """The error names both counts and the commands that help."""
    from localllm.options import ModelConfig

    shown = io.StringIO()
    settings = ChatSettings(model="any", backend=echo.PATH, config=ModelConfig(n_ctx=16), options={})
    assert converse(settings, Terminal(None, shown, shown), typing(["word " * 40, "/quit"])) == 0
    assert "/undo or /reset make room" in shown.getvalue()


def test_on_a_terminal_ctrl_c_ends_the_reply_and_not_the_program() -> None:
    """Real keys, a real SIGINT: the reply stops, its part is kept, the conversation goes on; Ctrl-D leaves."""
    with screen("chat", *ECHO) as shown:
        shown.expect(">>> ")
        shown.type("forever\n")
        shown.expect("on on on")
        shown.type(CTRL_C)
        shown.expect("stopped; what came is kept")
        shown.expect(">>> ")
        shown.type("Hello\n")
        shown.expect("3 Hello")
        shown.expect(">>> ")
        shown.type(CTRL_D)
        assert shown.end() == 0
    assert "Traceback" not in shown.text


def test_on_a_terminal_ctrl_c_at_the_prompt_clears_the_line() -> None:
    """What was typed is not sent, the way out is told, and the program stays."""
    with screen("chat", *ECHO) as shown:
        shown.expect(">>> ")
        shown.type("half a thought")
        shown.expect("half a thought")
        shown.press(CTRL_C, until="Ctrl-D or /quit leaves")
        shown.expect(">>> ")
        shown.type("/undo\n")
        shown.expect("nothing to take back")
        shown.type("/quit\n")
        assert shown.end() == 0


def test_on_a_terminal_lines_can_be_recalled() -> None:
    """The up arrow brings the last line back."""
    with screen("chat", *ECHO) as shown:
        shown.expect(">>> ")
        shown.type("Hello\n")
        shown.expect("1 Hello")
        shown.expect(">>> ")
        shown.type("\x1b[A\n")
        shown.expect("3 Hello")
        shown.expect(">>> ")
        shown.type(CTRL_D)
        assert shown.end() == 0


def test_on_a_terminal_several_pasted_lines_are_one_message() -> None:
    """A bracketed paste, as terminals send it, is not sent line by line."""
    with screen("chat", *ECHO) as shown:
        shown.expect(">>> ")
        shown.type("\x1b[200~one\ntwo\x1b[201~\n")
        shown.expect("1 one")
        shown.expect("two")
        shown.expect(">>> ")
        shown.type(CTRL_D)
        assert shown.end() == 0
    assert "3 two" not in shown.text

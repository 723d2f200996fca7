"""Text that is safe to show, stdin that may be anything, and Ctrl-C as a request."""

from __future__ import annotations

import io
import os
import signal
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.cli.terminal import Terminal, on_interrupt, printable


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text())
def test_nothing_printable_can_command_a_terminal(text: str) -> None:
    """Of control characters only newline and tab are left, whatever the model wrote."""
    controls = {c for c in printable(text) if unicodedata.category(c) == "Cc"}
    assert controls <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t")))
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    """Letters of any script, emoji and line breaks are not touched."""
    assert printable(text) == text


def test_an_escape_sequence_is_shown_not_obeyed() -> None:
    """What would clear the screen or set the title is visible as text."""
    assert printable("a\x1b[2Jb\x9b31m\x07\x7f\r") == "a␛[2Jb\ufffd31m␇␡"


def test_a_pipe_receives_the_text_unchanged() -> None:
    """Only a terminal needs protection; a program gets every character."""
    out = io.StringIO()
    Terminal(None, out, io.StringIO()).write("a\x1b[2Jb")
    assert out.getvalue() == "a\x1b[2Jb"


def test_a_terminal_receives_it_neutralized() -> None:
    """The same text on a terminal does nothing."""
    out = Tty()
    Terminal(None, out, Tty()).write("a\x1b[2Jb")
    assert out.getvalue() == "a␛[2Jb"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colors_are_off_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """NO_COLOR and a dumb terminal are respected."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    err = Tty()
    Terminal(None, Tty(), err).note("quietly")
    monkeypatch.setenv(variable, value)
    Terminal(None, Tty(), err).note("plainly")
    assert err.getvalue() == "\x1b[2mquietly\x1b[0m\nplainly\n"


def test_a_file_on_stdin_is_read_whatever_its_bytes(tmp_path: Path) -> None:
    """A byte order mark vanishes and invalid UTF-8 is replaced: a piped file may hold anything."""
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xe9\n")
    with path.open() as stdin:
        assert Terminal(stdin, io.StringIO(), io.StringIO()).piped() == "caf\ufffd\n"


def test_a_device_is_not_waited_for() -> None:
    """Under a service manager stdin is /dev/null: nothing was piped in."""
    with Path(os.devnull).open() as stdin:
        assert Terminal(stdin, io.StringIO(), io.StringIO()).piped() is None


def test_no_stdin_at_all_is_nothing_piped() -> None:
    """A process can be started without stdin."""
    assert Terminal(None, io.StringIO(), io.StringIO()).piped() is None
    assert not Terminal(None, io.StringIO(), io.StringIO()).interactive


def test_the_first_interrupt_asks_and_the_second_insists() -> None:
    """Ctrl-C calls what it was told to, once; pressed again, it raises as usual."""
    stops: list[str] = []
    with pytest.raises(KeyboardInterrupt), on_interrupt() as interrupt:
        interrupt.stops(lambda: stops.append("stop"))
        assert not interrupt
        signal.raise_signal(signal.SIGINT)
        assert interrupt
        signal.raise_signal(signal.SIGINT)
    assert stops == ["stop"]


def test_an_interrupt_that_came_too_early_is_not_lost() -> None:
    """Pressed before there was anything to stop, it stops it as soon as there is."""
    stops: list[str] = []
    with on_interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        interrupt.stops(lambda: stops.append("stop"))
    assert stops == ["stop"]


def test_the_handler_is_put_back() -> None:
    """After the reply, Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    with on_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A shell starts background jobs with SIGINT ignored; that is the user's wish."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with on_interrupt() as interrupt:
            interrupt.stops(lambda: pytest.fail("called"))
            signal.raise_signal(signal.SIGINT)
        assert not interrupt
    finally:
        signal.signal(signal.SIGINT, before)

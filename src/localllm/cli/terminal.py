"""The terminal: text that is safe to show, and Ctrl-C as a request to stop one reply."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, TextIO

from attrs import define, field

# C0 controls become their pictures (ESC is shown as ␛), DEL too, C1 controls the replacement character. Kept: newline
# and tab. Dropped: carriage return, which would let a line overwrite itself.
_SHOWN = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_SHOWN |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_SHOWN[ord("\n")], _SHOWN[ord("\t")] = ord("\n"), ord("\t")
_DROPPED = {ord("\r"): None}


_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


def printable(text: str) -> str:
    """Return `text` without anything that a terminal would obey: what a model writes may be anybody's words."""
    return text.translate({**_SHOWN, **_DROPPED})


@define(eq=False)
class Terminal:
    """The three standard streams as the command line uses them.

    Args:
        stdin: Where questions come from.
        stdout: Where replies go; shown safely if it is a terminal, unchanged if not.
        stderr: Where everything else goes: notes, figures, errors.
    """

    stdin: TextIO | None
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def standard(cls) -> Terminal:
        """Return the process's own streams, set to replace what their encoding cannot hold."""
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:  # a replaced stream, as in a test, may have none
                reconfigure(errors="replace")
        return cls(sys.stdin, sys.stdout, sys.stderr)

    @property
    def interactive(self) -> bool:
        """Whether a person types."""
        return self.stdin is not None and not self.stdin.closed and self.stdin.isatty()

    def write(self, text: str) -> None:
        """Write a piece of a reply to stdout at once."""
        self.stdout.write(printable(text) if self.stdout.isatty() else text)
        self.stdout.flush()

    def style(self, name: Literal["dim", "plain"]) -> None:
        """Write what follows dimmed, or plainly again; only where a terminal shows colors."""
        if self.stdout.isatty() and _colors():
            self.stdout.write(_DIM if name == "dim" else _PLAIN)

    def line(self, text: str = "") -> None:
        """Write a line to stdout."""
        self.write(text + "\n")

    def note(self, text: str, *, kind: str = "") -> None:
        """Write a line to stderr: `kind` ("error", "note") is its label, printed first unless empty."""
        shown = printable(text) if self.stderr.isatty() else text
        label = f"{kind}: " if kind else ""
        dim, plain = (_DIM, _PLAIN) if self.stderr.isatty() and not kind and _colors() else ("", "")
        self.stderr.write(f"{dim}{label}{shown}{plain}\n")
        self.stderr.flush()

    def end_line(self) -> None:
        """Move a terminal's cursor below the ^C that it shows where Ctrl-C was pressed."""
        if self.stderr.isatty():
            self.stderr.write("\n")

    def piped(self) -> str | None:
        """Return what was piped or redirected to stdin, or None if nothing was.

        A terminal is not read, nor is a device such as /dev/null, nor a stdin that is closed. Invalid UTF-8 is
        replaced by U+FFFD, as a file that somebody else wrote may hold anything.
        """
        if self.stdin is None or self.stdin.closed or self.stdin.isatty():
            return None
        try:
            mode = os.fstat(self.stdin.fileno()).st_mode
        except (OSError, ValueError):  # no file behind it: a replaced stream, whose text is taken as it is
            return self.stdin.read()
        if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
            return None
        return self.stdin.buffer.read().decode("utf-8-sig", errors="replace")


def _colors() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@define(eq=False)
class Interrupt:
    """Ctrl-C while `on_interrupt` is in force: counted, and passed on to whatever can be stopped."""

    times: int = field(default=0, init=False)
    _stop: Callable[[], object] | None = field(default=None, init=False)

    def __bool__(self) -> bool:
        return self.times > 0

    def stops(self, stop: Callable[[], object]) -> None:
        """Let Ctrl-C call `stop`, on the main thread between two instructions; at once if it was pressed already."""
        self._stop = stop
        if self.times:
            stop()

    def press(self) -> None:
        """Count a Ctrl-C and act on it: the first one asks, the next raises.

        Raises:
            KeyboardInterrupt: It was not the first.
        """
        self.times += 1
        if self.times > 1:
            raise KeyboardInterrupt
        if self._stop is not None:
            self._stop()


@contextmanager
def on_interrupt() -> Iterator[Interrupt]:
    """While inside, the first Ctrl-C is a request instead of an exception; the second raises as usual.

    A process that was started with Ctrl-C ignored, as a shell does in the background, goes on ignoring it.

    Yields:
        What is true once Ctrl-C was pressed, and can be told what to stop.
    """
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        yield interrupt
        return

    def handle(number: int, frame: FrameType | None) -> None:
        interrupt.press()

    signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)

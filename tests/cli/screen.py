"""A real process on a pseudo-terminal, as a person at a keyboard meets it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

CTRL_C, CTRL_D = "\x03", "\x04"
_DEADLINE_S = 15.0

# The pseudo-terminal becomes the process's controlling one, so that Ctrl-C typed into it is a real SIGINT.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Screen:
    """What the process wrote so far, and a keyboard for it.

    Args:
        process: The process.
        master: Our end of its terminal.
    """

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.text = ""
        self._master = master
        self._seen = 0

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Wait until `text` appears after what was expected before; return everything up to its end."""
        if not self._appears(text, _DEADLINE_S):
            raise AssertionError(f"{text!r} did not appear in {self.text[self._seen :]!r}")
        start, self._seen = self._seen, self.text.index(text, self._seen) + len(text)
        return self.text[start : self._seen]

    def press(self, key: str, until: str) -> None:
        """Press a key until `until` appears.

        readline looks for a signal only while it waits for a key: of a Ctrl-C that comes while it still writes what was
        typed it learns with the next one.
        """
        for _ in range(3):
            self.type(key)
            if self._appears(until, _DEADLINE_S / 5):
                break
        self.expect(until)

    def end(self) -> int:
        """Wait until the process ends; return its exit code, with all that it wrote in `text`."""
        deadline = time.monotonic() + _DEADLINE_S
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _appears(self, text: str, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while text not in self.text[self._seen :]:
            if not self._read(deadline - time.monotonic()):
                return False
        return True

    def _read(self, patience_s: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, patience_s))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


@contextmanager
def screen(*arguments: str, **variables: str) -> Iterator[Screen]:
    """Run `localllm` with `arguments` on a terminal of 100 columns; end it afterwards if it still runs."""
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "INPUTRC": os.devnull} | variables
    command = [sys.executable, "-c", _TAKE_TERMINAL, sys.executable, "-m", "localllm.cli", *arguments]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment
    )
    os.close(slave)
    try:
        yield Screen(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)

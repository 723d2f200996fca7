"""Showing a reply while it is made."""

from __future__ import annotations

from collections.abc import Callable

from localllm.cli.terminal import Terminal, on_interrupt
from localllm.stream import ChatStream
from localllm.types import Reply


def show(start: Callable[[], ChatStream], terminal: Terminal) -> Reply:
    """Begin a reply, write its chunks to stdout as they come, then end the line.

    Thoughts are shown to a person only, dimmed; they are no part of what a pipe receives. The first Ctrl-C cancels the
    reply, the second raises.

    Args:
        start: Asks for the reply.
        terminal: Where to.

    Returns:
        The reply, whose finish reason is "cancelled" after a Ctrl-C.

    Raises:
        GenerationError: It failed; what had come of it was shown.
        KeyboardInterrupt: Ctrl-C was pressed twice.
    """
    person = terminal.stdout.isatty()
    thinking = pressed = False
    last = "\n"
    try:
        with on_interrupt() as interrupt, start() as stream:
            interrupt.stops(stream.cancel)
            for chunk in stream:
                if chunk.segment == "thought" and not person:
                    continue
                if thinking != (chunk.segment == "thought"):
                    thinking = not thinking
                    terminal.style("dim" if thinking else "plain")
                terminal.write(chunk.text)
                last = chunk.text[-1]
            pressed = bool(interrupt)
    finally:
        if thinking:
            terminal.style("plain")
        if last != "\n" or (pressed and person):  # a terminal shows ^C where the cursor was
            terminal.write("\n")
    return stream.reply

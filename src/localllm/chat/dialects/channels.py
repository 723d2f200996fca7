"""Replies that are messages, each with a header that says whom it is for: gpt-oss (harmony) and its like.

A message is a header, `<|message|>`, a body, and `<|end|>` or one of its kind; the first header's beginning is the end
of the prompt. The header's recipient and channel tell what the body is: a thought, text, or a call's arguments.
"""

from __future__ import annotations

import re

from localllm.chat.dialects.json_text import scan_value
from localllm.chat.dialects.marks import MESSAGE_ENDS
from localllm.chat.dialects.parser import ReplyParser
from localllm.chat.dialects.tape import Reading

_START = "<|start|>"
_BODY = "<|message|>"
_HEADER = re.compile(r"[^<\n]*")
_INSIDE = ("<|channel|>", "<|constrain|>")
_MAX_HEADER = 400
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")


class ChannelParser(ReplyParser):
    """Takes a reply of messages apart; see `ReplyParser`."""

    def _read(self) -> Reading[None]:
        yield
        tape = self._tape
        while not (tape.ended and tape.pos == len(tape.text)):
            if self._thinking:
                yield from self._body("thought")
                continue
            header = yield from self._header()
            if header is None:
                if self._calls and tape.ended and _RECIPIENT.search(tape.text, tape.pos):
                    self._note_broken()
                yield from self._body("text")
            elif (name := self._called(header)) is not None:
                yield from self._call(name)
            else:
                self._skip()
                inward = _meant(header, _RECIPIENT) == "self" or _meant(header, _CHANNEL) == "analysis"
                yield from self._body("thought" if inward else "text")

    def _called(self, header: str) -> str | None:
        """Return the name of the tool that a message is for."""
        recipient = _meant(header, _RECIPIENT)
        if recipient in ("", "self", "user", "assistant", "all"):
            return None
        return recipient.removeprefix("functions.") or None

    def _header(self) -> Reading[str | None]:
        """Read the header of a message, and the mark behind it; None if there is none, and nothing is read."""
        tape = self._tape
        before = tape.read()
        read = ""
        begun = yield from tape.accept(_START)
        while len(read) < _MAX_HEADER:
            read += yield from tape.match(_HEADER)
            if not begun and read and not _RECIPIENT.search(read):
                break
            if (yield from tape.accept(_BODY)) and (begun or read):
                return read
            for mark in _INSIDE:
                if (yield from tape.accept(mark)):
                    read += mark
                    begun = True
                    break
            else:
                break
        tape.rewind(before)
        return None

    def _body(self, segment: str) -> Reading[None]:
        """Read a body as text or as a thought, with the mark that ends it."""
        tape = self._tape
        self._thinking = segment == "thought"
        first = True
        while True:
            end, found = tape.find(MESSAGE_ENDS)
            if first and found is not None and end == tape.pos and found in (_START, "<|channel|>"):
                end, found = tape.pos + 1, None  # a mark that begins no header: text
            first = first and end == tape.pos
            if end > tape.pos:
                text = tape.take(end)
                if self._thinking:
                    self._log.say("" if self._drop else text, "thought")
                    self._skip()
                else:
                    self._speak(text)
            if found is not None:
                if self._exact and self._said and not self._thinking:
                    tape.pos += len(found)
                    if (yield from self._more()):
                        self._speak(tape.since())
                        continue
                    self._skip()
                    return
                self._thinking = False
                if found not in (_START, "<|channel|>"):
                    tape.pos += len(found)
                    self._skip()
                return
            if tape.ended:
                return
            yield

    def _call(self, name: str) -> Reading[None]:
        """Read a call's arguments; if they are none, the whole message is text."""
        tape, syntax = self._tape, self._calls
        if syntax is not None and syntax.form == "tagged":
            self._skip()
            yield from self._text()
            return
        yield from tape.space()
        whole = syntax is not None and tape.text.startswith("{", tape.pos)
        if whole:
            self._sink.begin(name)
            arguments = yield from scan_value(tape, self._sink.piece)
            whole = arguments is not None and self._sink.end(arguments)
        if not whole:
            tape.rewind()
            if syntax is not None:
                self._note_broken()
            yield from self._body("text")
            return
        self._after_call = True
        self._skip()
        yield from tape.space()
        for end in MESSAGE_ENDS[:5]:
            if (yield from tape.accept(end)):
                break
        self._skip()


def _meant(header: str, what: re.Pattern[str]) -> str:
    """Return what a header names, the last of it if there is more; empty if it names none."""
    found: list[str] = what.findall(header)
    return found[-1] if found else ""

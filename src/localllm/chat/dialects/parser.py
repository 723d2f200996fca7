"""A reply's text taken apart while it arrives: text, thoughts and calls, with nothing lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects.marks import call_marks
from localllm.chat.dialects.pieces import ParserEvent, Piece, PieceLog, merged
from localllm.chat.dialects.reading import read_call
from localllm.chat.dialects.sink import CallSink
from localllm.chat.dialects.syntax import CallSyntax, DialectSyntax, ThoughtSyntax
from localllm.chat.dialects.tape import Reading, Tape, first_part, held
from localllm.messages import ToolCall

_NOTED_CHARS = 80
_MAX_BROKEN = 32  # calls that broke, after which their marks are text: each has what comes after it read again


class ReplyParser:
    """Takes one reply apart. Made by `Dialect.parser`; for one thread at a time.

    What cannot be read as a call stays text. Of a call that breaks after its `ToolCallStarted`, there is no
    `ToolCallEnded`: its text follows as text, and the next call takes its index. At the end of a reply, a call whose
    arguments are whole is a call, even if its closing mark is missing.

    Args:
        syntax: How the family writes.
        tools: What may be called; without tools, marks of calls are text.
        in_thought: Whether the prompt has begun a thought.
        drop_thoughts: Whether thoughts are left out.
        taken_ids: Ids of the calls before, which a new call does not get.
        exact: Whether white space after a thought is the text's own, but for what the family writes there: so for text
            that is held to a grammar.
    """

    def __init__(
        self,
        syntax: DialectSyntax,
        tools: Sequence[ToolDefinition],
        *,
        in_thought: bool,
        drop_thoughts: bool,
        taken_ids: Collection[str],
        exact: bool,
    ) -> None:
        self._syntax = syntax
        self._calls = syntax.calls if tools else None
        self._drop = drop_thoughts
        self._exact = exact
        self._tape = Tape()
        virtual = "" if in_thought else syntax.virtual
        self._log = PieceLog(len(virtual))
        self._sink = CallSink(tools, syntax.calls.new_id, taken_ids, self._log.tell)
        self._thinking = in_thought and syntax.thought is not None
        self._said = False  # text that is more than white space
        self._after_call = False
        self._broken: list[str] = []  # how each call that broke begins
        self._call_marks = call_marks(self._calls) if self._calls else ()
        self._reading = self._read()
        next(self._reading)
        if virtual:
            self.feed(virtual)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The whole calls so far."""
        return tuple(self._sink.calls)

    @property
    def notes(self) -> tuple[str, ...]:
        """What looked like a call, could not be read as one, and stayed text."""
        return tuple(f"what begins like a call could not be read as one: {begin!r}" for begin in self._broken)

    @property
    def taken_chars(self) -> int:
        """None: without a `PrefixedParser` there is no prefix."""
        return 0

    @property
    def thinking(self) -> bool:
        """Whether the reply is inside of a thought."""
        return self._thinking

    @property
    def close_thought(self) -> str:
        """The text that ends a thought and begins the text; empty for a family without thoughts."""
        thought = self._syntax.thought
        return f"{thought.tail}{thought.close}{thought.gap}{self._syntax.text_open}" if thought else ""

    def push(self, text: str) -> list[ParserEvent]:
        """Take the next piece of the reply; return what it settles."""
        self.feed(text)
        return merged(self._log.take())

    def flush(self) -> list[ParserEvent]:
        """The reply has ended; return the rest."""
        self.feed("", ended=True)
        return merged(self._log.take())

    def feed(self, text: str, *, ended: bool = False) -> None:
        """Take the next piece of the reply; `pieces` returns what it settles."""
        self._tape.feed(text)
        self._tape.ended = self._tape.ended or ended
        next(self._reading, None)

    def pieces(self) -> tuple[Piece, ...]:
        """Return what was settled since the last call of `push`, `flush` or this, with the text that it was."""
        return self._log.take()

    def _read(self) -> Reading[None]:
        yield
        while not (self._tape.ended and self._tape.pos == len(self._tape.text)):
            if self._thinking and self._syntax.thought:
                yield from self._thought(self._syntax.thought)
            else:
                yield from self._text()

    def _thought(self, thought: ThoughtSyntax) -> Reading[None]:
        """Read a thought, and what ends it."""
        tape, begun = self._tape, False
        ends = (thought.close, *(self._call_marks if thought.ended_by_calls else ()))
        while True:
            if not begun:
                tape.space_now()
                self._skip()
            end, found = tape.find(ends)
            piece = tape.text[tape.pos : end].rstrip()
            if piece:
                begun = True
                tape.pos += len(piece)
                self._log.say("" if self._drop else piece, "thought")
                self._log.settle(tape.commit())
            if found is not None or tape.ended:
                self._thinking = False
                tape.pos = end
                self._skip()
                break
            yield
        if found == thought.close:
            tape.pos += len(found)
            yield from self._gap(thought.gap)

    def _gap(self, gap: str) -> Reading[None]:
        """Leave out the white space between a thought and the text."""
        self._skip()
        while not self._exact:
            self._tape.space_now()
            self._skip()
            if self._tape.pos < len(self._tape.text) or self._tape.ended:
                return
            yield
        for char in gap:
            if not (yield from self._tape.accept(char)):
                break
        self._skip()

    def _skip(self) -> None:
        """Settle what was read as no text."""
        self._log.settle(self._tape.commit())

    def _text(self) -> Reading[None]:
        """Read text up to the next mark, and do what the mark says."""
        tape = self._tape
        while True:
            marks = self._marks()
            end, found = tape.find(marks)
            text = tape.text[tape.pos : end]
            if found is None and tape.ended:
                self._last(text)
                return
            text = text.rstrip() if marks else text
            if text:
                tape.pos += len(text)
                self._speak(text)  # after it, some marks are none any more
            elif found is not None:
                tape.pos = end
                yield from self._act(found)
                return
            else:
                yield

    def _marks(self) -> tuple[str, ...]:
        """Return the marks that matter here."""
        syntax, thought = self._syntax, self._syntax.thought
        if self._exact and self._said:  # text of a form has begun: there is nothing else in it, whatever it looks like
            return (syntax.text_close,) if syntax.text_close else ()
        marks = tuple(mark for mark in (syntax.text_open, syntax.text_close, *syntax.silent) if mark)
        if thought and (thought.anywhere or not self._said):
            marks += (thought.open, thought.close)
        if self._calls and len(self._broken) < _MAX_BROKEN and not (self._calls.start_only and self._said):
            marks += self._call_marks
        return marks

    def _speak(self, text: str) -> None:
        """Settle text that was read; white space after calls is theirs if no text came before them."""
        if self._after_call and not self._said:
            text = text.lstrip()
        self._after_call = False
        self._said = self._said or bool(text.strip())
        self._log.say(text, "text")
        self._skip()

    def _last(self, text: str) -> None:
        """The reply ends with `text`."""
        begun = held(text, 0, self._call_marks)
        if begun > 1 and len(self._broken) < _MAX_BROKEN:  # one character alone is hardly ever a mark's beginning
            self._broken.append(text[-begun:])
        self._tape.pos += len(text)
        if self._after_call and not text.strip():
            self._skip()
        elif text:
            self._speak(text)

    def _act(self, mark: str) -> Reading[None]:
        """Do what a mark says; the tape is where it begins, with the white space before it read."""
        thought = self._syntax.thought
        if self._calls and mark in self._call_marks:
            yield from self._section(self._calls, mark)
            return
        self._tape.pos += len(mark)
        if self._exact and self._said and (yield from self._more()):
            self._speak(self._tape.since())
            return
        if thought and mark == thought.close:
            yield from self._gap(thought.gap)  # it closes a thought that the prompt has begun, or none
        self._thinking = bool(thought and mark == thought.open)
        self._skip()

    def _more(self) -> Reading[bool]:
        """Whether anything comes after what was read."""
        while self._tape.pos == len(self._tape.text) and not self._tape.ended:
            yield
        return self._tape.pos < len(self._tape.text)

    def _section(self, syntax: CallSyntax, mark: str) -> Reading[None]:
        """Read a section of calls, or find that it is text."""
        tape = self._tape
        skipped = len(mark)
        opened = mark != first_part(syntax.section_open) or (yield from tape.expect(syntax.section_open))
        while opened and (yield from tape.expect(syntax.open)) and (yield from read_call(tape, syntax, self._sink)):
            self._after_call = True
            yield from tape.expect(syntax.close)
            self._skip()
            skipped = 1
            if not (yield from self._another(syntax)):
                yield from tape.expect(syntax.section_close)
                self._skip()
                return
        tape.rewind()
        self._note_broken()
        tape.space_now()
        tape.pos += skipped
        self._speak(tape.since())

    def _note_broken(self) -> None:
        """Note that what comes next is text, though it begins like a call."""
        self._broken.append(self._tape.text[self._tape.pos :].strip()[:_NOTED_CHARS])

    def _another(self, syntax: CallSyntax) -> Reading[bool]:
        """Read what stands between two calls; True if one more begins there, else nothing is read."""
        tape = self._tape
        before = tape.read()
        yield from tape.space()
        comma = first_part(syntax.between)
        parted = bool(comma) and (yield from tape.accept(comma))
        yield from tape.space()
        start = first_part(syntax.open) or ("{" if syntax.form in ("object", "keyed") else "")
        if (start and (yield from tape.comes(start))) or (parted and not start):
            return True
        tape.rewind(before)
        return False

"""The marks of a family: what begins its calls, and what in them may be control tokens."""

from __future__ import annotations

import re

from localllm.chat.dialects.syntax import CallSyntax, DialectSyntax
from localllm.chat.dialects.tape import first_part

MESSAGE_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|eom|>", "<|eot|>", "<|start|>", "<|channel|>")
"""What ends a message on a channel: its own end, or the next one's beginning."""

_ATOM = re.compile(r"\]<\]\w+\[>\[|<[^<>\s]+>|\[[A-Z_/ ]+\]|｜[^｜]+｜")


def atoms_of(syntax: DialectSyntax) -> tuple[str, ...]:
    """Return everything in a family's marks that may be a control token."""
    calls, thought = syntax.calls, syntax.thought
    marks = [
        calls.section_open, calls.section_close, calls.open, calls.header, calls.name_end, calls.close,
        calls.param_open, calls.param_name_end, calls.param_close, calls.quotes, calls.namespace,
        syntax.text_open, syntax.text_close, *syntax.silent, syntax.virtual,
    ]  # fmt: skip
    if thought:
        marks += [thought.open, thought.close, thought.gap]
    if syntax.channels:
        marks += ["<|message|>", "<|constrain|>", *MESSAGE_ENDS]
    return tuple(dict.fromkeys(atom for mark in marks for atom in _ATOM.findall(mark)))


def call_marks(syntax: CallSyntax) -> tuple[str, ...]:
    """Return what begins a call, or a section of them."""
    section, alone = first_part(syntax.section_open), first_part(syntax.open)
    if not section:
        return (alone or "{",)
    if not syntax.section_optional:
        return (section,)
    return (section, alone or "{")


def ends_of_thought(syntax: DialectSyntax) -> tuple[str, ...]:
    """Return the marks that end a thought, besides its own."""
    if syntax.channels:
        return MESSAGE_ENDS
    return call_marks(syntax.calls) if syntax.thought and syntax.thought.ended_by_calls else ()

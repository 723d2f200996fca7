"""Calls read from a reply, by the form that the family writes them in.

Every function here stands on the tape where a call's `open` has just been read. It returns False if this is no call
after all; whatever it read is then put back by its caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import assert_never

from localllm._json import JsonValue
from localllm.chat.dialects.json_text import encode, scan_string, scan_value
from localllm.chat.dialects.literals import LiteralReader
from localllm.chat.dialects.sink import CallSink
from localllm.chat.dialects.syntax import CallSyntax
from localllm.chat.dialects.tape import Reading, Tape, first_part
from localllm.chat.dialects.values import kinds_of, nested, parameter, value_of

_NAME = r"[^\s<>\[\]{}()\"'`,;|]{1,200}"
_NAME_CHARS = re.compile(r"[^\s<>\[\]{}()\"'`,;|]+")
_HEADER_CHARS = re.compile(r"[^<>\[\]{}()\"'`,;|\n]+")
_TO_BRACKET = re.compile(r"[^()\[\]{}'\"]*")
_CDATA = ("<![CDATA[", "]]>")
_DIGITS = re.compile("[0-9]*")
_MAX_KEY = 500
_TYPE_STRING = re.compile(r"""(?:string\s*=\s*["']true["']|type\s*=\s*["']string["'])""")
_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters")


def read_call(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """Read one call, up to its `close`; True if there was one."""
    match syntax.form:
        case "object":
            return (yield from _object(tape, syntax, sink))
        case "keyed":
            return (yield from _keyed(tape, sink))
        case "named":
            return (yield from _named(tape, syntax, sink))
        case "tagged":
            return (yield from _tagged(tape, syntax, sink))
        case "literal":
            return (yield from _literal(tape, syntax, sink))
        case "python":
            return (yield from _python(tape, sink))
        case "nested":
            return (yield from _nested(tape, syntax, sink))
        case _:
            assert_never(syntax.form)


def _object(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """{"name": "f", "arguments": {…}}, in any order, with anything beside."""
    if not (yield from tape.accept("{")):
        return False
    name: str | None = None
    own_id, arguments, begun = "", "", False
    first = True
    while not (yield from _accept_spaced(tape, "}")):
        if not first and not (yield from _accept_spaced(tape, ",")):
            return False
        first = False
        key = yield from scan_string(tape)
        if key is None or not (yield from _accept_spaced(tape, ":")):
            return False
        yield from tape.space()
        if key in _NAME_KEYS and name is None:
            name = yield from scan_string(tape)
            if not name or (syntax.start_only and not sink.knows(name)):
                return False
        elif key in _ARGUMENT_KEYS and not arguments:
            begun = bool(name) and not syntax.id_key and tape.text.startswith("{", tape.pos)
            if name and begun:
                sink.begin(name)
            arguments = (yield from scan_value(tape, sink.piece if begun else None)) or ""
            if not arguments:
                return False
        else:
            if syntax.start_only and name is None and key != "type":
                return False
            value = yield from scan_value(tape)
            if value is None:
                return False
            own_id = value.strip('"') if key == syntax.id_key else own_id
    if not name or (syntax.start_only and not arguments):
        return False
    if not begun:
        sink.begin(name, own_id)
    return sink.end("{}" if arguments in ("", "null") else arguments)


def _keyed(tape: Tape, sink: CallSink) -> Reading[bool]:
    """{"f": {…}}."""
    if not (yield from tape.accept("{")):
        return False
    name = yield from scan_string(tape)
    if not name or not (yield from _accept_spaced(tape, ":")):
        return False
    yield from tape.space()
    arguments = yield from _arguments(tape, name, "", sink)
    return arguments is not None and (yield from _accept_spaced(tape, "}")) and sink.end(arguments)


def _arguments(tape: Tape, name: str, own_id: str, sink: CallSink) -> Reading[str | None]:
    """Read the arguments of the call `name` and tell of them; None if there are none."""
    while tape.pos == len(tape.text) and not tape.ended:
        yield
    if not tape.text.startswith("{", tape.pos):
        return None
    sink.begin(name, own_id)
    return (yield from scan_value(tape, sink.piece))


def _named(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """f, a mark, {…}."""
    stop = first_part(syntax.name_end)
    header = yield from tape.match(_HEADER_CHARS)
    middle = _middle_of(syntax.header)
    if middle and (yield from tape.accept(middle)):
        header += middle + (yield from tape.match(_HEADER_CHARS))
    if not (yield from tape.expect(syntax.name_end if stop else " ")):
        return False
    found = _header_of(syntax.header).fullmatch(header.strip())
    name = (found["name"] or found["bare"]) if found else None
    if not found or not name:
        return False
    own_id = found[0] if syntax.header_is_id and found["name"] else found.groupdict().get("id") or ""
    arguments = yield from _arguments(tape, name, own_id, sink)
    return arguments is not None and sink.end(arguments)


@cache
def _middle_of(header: str) -> str:
    """Return the mark inside of a header, such as [CALL_ID]; empty if there is none."""
    found = re.search(r"\}(\W.*)\{(?:id|name)\}", header)
    return found[1] if found else ""


@cache
def _header_of(header: str) -> re.Pattern[str]:
    """Return what reads a header: as it is written, or of its name alone."""
    pattern = re.escape(header).replace(r"\{name\}", rf"(?P<name>{_NAME}?)")
    pattern = pattern.replace(r"\{id\}", r"(?P<id>[^\s<>\[\]{}|]{1,200})").replace(r"\{index\}", "[0-9]+")
    return re.compile(rf"{pattern}|(?P<bare>{_NAME})")


def _tagged(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """f, a mark, then the arguments, each between marks; whole only if the closing mark comes."""
    name = yield from tape.match(_NAME_CHARS)
    if not name or not (yield from _name_end(tape, syntax)):
        return False
    sink.begin(name)
    said: list[str] = []
    while True:
        yield from tape.space()
        if (yield from tape.comes(first_part(syntax.close) or first_part(syntax.section_close))):
            break
        pair = yield from _parameter(tape, syntax, sink.parameters(name))
        if pair is None:
            return False
        said.append(("{" if not said else ", ") + pair)
        sink.piece(said[-1])
    said.append("}" if said else "{}")
    sink.piece(said[-1])
    return sink.end("".join(said))


def _name_end(tape: Tape, syntax: CallSyntax) -> Reading[bool]:
    """Read what stands between a name and the arguments, with the number in it, if there is one."""
    before, counted, after = syntax.name_end.partition("{index}")
    if not (yield from tape.expect(before)):
        return False
    if counted:
        yield from tape.match(_DIGITS)
    return (yield from tape.expect(after))


def _parameter(tape: Tape, syntax: CallSyntax, parameters: JsonValue) -> Reading[str | None]:
    """Read one argument; return it as a key and a value in JSON."""
    if not (yield from tape.expect(syntax.param_open)):
        return None
    stop = first_part(syntax.param_name_end)
    between = yield from tape.until(stop)
    text = None if between is None else (yield from tape.until(first_part(syntax.param_close)))
    if between is None or text is None:
        return None
    rest = syntax.param_name_end[syntax.param_name_end.index(stop) + len(stop) :]
    if first_part(rest):  # GLM: a mark before the value
        _, found, text = text.partition(first_part(rest))
        if not found:
            return None
    key = between.partition(syntax.param_attributes[0])[0] if syntax.param_attributes else between
    if not key or len(key) > _MAX_KEY:
        return None
    if syntax.param_name_end.endswith("\n"):
        text = text.removeprefix("\n").removesuffix("\n")
    if text.startswith(_CDATA[0]) and text.endswith(_CDATA[1]):
        text = text[len(_CDATA[0]) : -len(_CDATA[1])]
        return f"{encode(key)}: {encode(text)}"
    kinds = kinds_of(parameter(parameters, key.strip()), parameters)
    if "{string}" in syntax.param_attributes or "{type}" in syntax.param_attributes:
        kinds = {"string"} if _TYPE_STRING.search(between) else (kinds - {"string"}) or {"object"}
    return f"{encode(key.strip())}: {encode(value_of(text, kinds))}"


def _literal(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """f{a:1,b:…}: read as a whole, up to the closing mark."""
    stop = first_part(syntax.close)
    text = yield from tape.until(stop)
    if text is None:
        return False
    tape.pos -= len(stop)  # the caller reads it
    reader = LiteralReader(text, (syntax.quotes, '"'))
    try:
        name = reader.word()
        if not reader.accept("{"):
            return False
        arguments = encode(reader.pairs("}", ":"))
        reader.end()
    except (ValueError, RecursionError):
        return False
    sink.begin(name)
    return sink.end(arguments)


def _python(tape: Tape, sink: CallSink) -> Reading[bool]:
    """f(a=1, b='text')."""
    name = yield from tape.match(_NAME_CHARS)
    if not name or not (yield from tape.accept("(")):
        return False
    text = yield from _to_bracket(tape)
    try:
        arguments = None if text is None else encode(LiteralReader(text).pairs(")", "="))
    except (ValueError, RecursionError):
        return False
    if arguments is None:
        return False
    sink.begin(name)
    return sink.end(arguments)


def _to_bracket(tape: Tape) -> Reading[str | None]:
    """Read up to the bracket that closes a call, those in texts and in values aside; with the bracket."""
    read: list[str] = []
    depth = 1
    while True:
        part = yield from tape.match(_TO_BRACKET)
        while tape.pos == len(tape.text) and not tape.ended:
            yield
        char = tape.take(min(tape.pos + 1, len(tape.text)))
        read.append(part + char)
        match char:
            case "":
                return None
            case "(" | "[" | "{":
                depth += 1
            case ")" | "]" | "}":
                depth -= 1
            case _:
                text = yield from _to_quote(tape, char)
                if text is None:
                    return None
                read.append(text)
        if not depth:
            return "".join(read)


def _to_quote(tape: Tape, quote: str) -> Reading[str | None]:
    """Read up to a quote that is not escaped, and past it."""
    read = ""
    while True:
        part = yield from tape.until(quote)
        if part is None:
            return None
        read += part + quote
        escapes = len(part) - len(part.rstrip("\\"))
        if escapes % 2 == 0:
            return read


def _nested(tape: Tape, syntax: CallSyntax, sink: CallSink) -> Reading[bool]:
    """f, then arguments between marks, read as a whole."""
    name = yield from tape.match(_NAME_CHARS)
    if not name or not (yield from tape.expect(syntax.name_end)):
        return False
    stop = first_part(syntax.close)
    text = yield from tape.until(stop)
    if text is None:
        return False
    tape.pos -= len(stop)  # the caller reads it
    sink.begin(name)
    try:
        arguments = nested(text, syntax.namespace, sink.parameters(name))
    except (ValueError, RecursionError):
        return False
    return isinstance(arguments, Mapping) and sink.end(encode(arguments))


def _accept_spaced(tape: Tape, literal: str) -> Reading[bool]:
    """Read `literal` after any white space."""
    yield from tape.space()
    return (yield from tape.accept(literal))

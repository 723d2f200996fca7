"""One grammar for a whole reply: an optional thought, then text of a given form, or calls, or what there is of both."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects.json_text import encode
from localllm.chat.dialects.lark import FREE, LarkWriter, one_of, quoted, regex, sequence
from localllm.chat.dialects.marks import MESSAGE_ENDS, call_marks, ends_of_thought
from localllm.chat.dialects.notation import ArgumentWriter
from localllm.chat.dialects.syntax import CallSyntax, DialectSyntax
from localllm.chat.dialects.tape import first_part, written
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidOptionError
from localllm.output.grammars import lark_rule

_ID = "/[a-zA-Z0-9]{9}/"
_INDEX = "/[0-9]{1,3}/"


def compose(
    syntax: DialectSyntax,
    grammar: Grammar | None,
    tools: Sequence[ToolDefinition],
    *,
    tool_choice: str,
    parallel: bool,
    in_thought: bool,
    special: Mapping[str, int],
) -> str | None:
    """Return the grammar of a whole reply, or None if it is free; see `Dialect.grammar`."""
    offered = _offered(tools, tool_choice)
    must = bool(offered) and tool_choice != "auto"
    if grammar is None and not must and not any(tool.strict for tool in offered):
        return None
    writer = LarkWriter(special)
    thought = _thoughts(writer, syntax, in_thought)
    beside_json = grammar is not None and not must and syntax.calls.start_only
    calls = _Calls(writer, syntax, offered, parallel=parallel, whole=beside_json) if offered else None
    if calls and must:
        reply = calls.alone()
    elif grammar is not None:
        reply = one_of([_answer(writer, syntax, grammar), *([calls.alone()] if calls else [])])
    else:
        reply = _text_or_calls(writer, syntax, calls) if calls else FREE
    return writer.source(sequence(thought, reply))


def _offered(tools: Sequence[ToolDefinition], tool_choice: str) -> list[ToolDefinition]:
    """Return the tools that may be called."""
    if tool_choice in ("auto", "required"):
        if tool_choice == "required" and not tools:
            raise InvalidOptionError("tool_choice is 'required', but there are no tools; pass tools=[...]")
        return list(tools)
    if tool_choice == "none":
        return []
    chosen = [tool for tool in tools if tool.name == tool_choice]
    if not chosen:
        names = ", ".join(tool.name for tool in tools) or "none"
        raise InvalidOptionError(
            f"tool_choice names no tool: {tool_choice!r:.80}; use 'auto', 'none', 'required', or one of: {names}"
        )
    return chosen


def _thoughts(writer: LarkWriter, syntax: DialectSyntax, in_thought: bool) -> str:
    """Return an expression for the thought that may come, or must be ended, first."""
    thought = syntax.thought
    if thought is None:
        return ""
    free = writer.rule("THOUGHT", writer.without(ends_of_thought(syntax)))
    rest = sequence(writer.free_until(thought.close, free), writer.text(thought.gap))
    whole = writer.rule("thought", sequence(writer.text(thought.open), rest))
    return rest if in_thought else f"{whole}{'*' if thought.anywhere else '?'}"


def _answer(writer: LarkWriter, syntax: DialectSyntax, grammar: Grammar) -> str:
    """Return an expression for text of a given form."""
    name = writer.name("answer")
    writer.line(lark_rule(name, grammar))
    return _wrapped(writer, syntax, name)


def _wrapped(writer: LarkWriter, syntax: DialectSyntax, text: str) -> str:
    """Return an expression for text with what the family writes around it."""
    opening = writer.text(syntax.text_open.removeprefix(syntax.virtual))
    if opening and not syntax.virtual and not syntax.channels:
        opening = f"({opening})?"
    closing = writer.text(syntax.text_close)
    return sequence(opening, text, f"({closing})?" if closing else "")


def _text_or_calls(writer: LarkWriter, syntax: DialectSyntax, calls: _Calls) -> str:
    """Return an expression for free text in which calls may begin, and then are held to their form."""
    if syntax.calls.start_only:
        return one_of([calls.alone(), calls.no_call()])
    text = _first_text(writer, syntax)
    plain = writer.rule("PLAIN", writer.without(call_marks(syntax.calls), text))
    if syntax.channels or syntax.text_close:
        return one_of([_wrapped(writer, syntax, plain), calls.alone(), *_after_text(writer, syntax, plain, calls)])
    opening = writer.text(syntax.text_open.removeprefix(syntax.virtual))
    spoken = [sequence(opening, plain), *(sequence(opening, way) for way in calls.after(text))]
    return one_of([*spoken, calls.alone()] if opening else spoken)


def _after_text(writer: LarkWriter, syntax: DialectSyntax, text: str, calls: _Calls) -> list[str]:
    """Return an expression for calls behind text with marks around it."""
    if syntax.channels:
        return []
    opening = writer.text(syntax.text_open)
    return [sequence(opening, writer.free_until(syntax.text_close, text), calls.alone())]


def _first_text(writer: LarkWriter, syntax: DialectSyntax) -> str:
    """Return a terminal for any text that does not begin as a thought does."""
    thought = syntax.thought
    if syntax.channels:
        return writer.rule("TEXT", writer.without(MESSAGE_ENDS))
    if thought is None or writer.has_token(thought.open):
        return writer.rule("TEXT", FREE)
    begun = regex(rf"\s*{re.escape(thought.open.strip())}(?s:.*)")
    return writer.rule("TEXT", f"{FREE} & ~{begun}")


class _Calls:
    """Writes expressions for calls.

    Args:
        writer: Where the rules go.
        syntax: How the family writes.
        tools: What may be called.
        parallel: Whether there may be several calls.
        whole: Whether a call is one piece of JSON to llguidance: beside other JSON, with which it begins alike. At a
            character that both JSON and text of ours may begin with, llguidance decides for one of them.
    """

    def __init__(
        self,
        writer: LarkWriter,
        syntax: DialectSyntax,
        tools: Sequence[ToolDefinition],
        *,
        parallel: bool,
        whole: bool,
    ) -> None:
        self._writer = writer
        self._whole = whole
        self._virtual = syntax.virtual
        self._rules = syntax.calls
        self._more = parallel and syntax.calls.parallel
        self._bodies = {tool.name: self._body(tool) for tool in tools}

    def alone(self) -> str:
        """Return an expression for one call or more, and nothing before them."""
        rules = self._rules
        section = "" if rules.start_only else rules.lead + written(rules.section_open)
        first = self._section(section, self._virtual)
        tag = self._writer.text(first_part(rules.section_open)) if rules.start_only else ""
        return sequence(f"({tag})?" if tag and self._writer.has_token(rules.section_open) else "", first)

    def after(self, text: str) -> list[str]:
        """Return expressions for free text in which the mark of a call ends the freedom.

        Args:
            text: The terminal for the text.
        """
        rules, ways = self._rules, []
        marks = [written(rules.section_open)] if rules.section_open else [""]
        if rules.section_optional and rules.open:
            marks.append("")
        for section in marks:
            trigger = first_part(rules.section_open if section else rules.open)
            ways.append(sequence(self._writer.free_until(trigger, text), self._section(section, trigger)))
        return ways

    def no_call(self) -> str:
        """Return a terminal for any text that does not begin as a call does, for a family without a mark."""
        names = "|".join(re.escape(encode(name)) for name in self._bodies)
        kind = r'("type"\s*:\s*"[^"]*"\s*,\s*)*'
        begun = regex(rf'\s*\{{\s*{kind}"(name|function|tool_name)"\s*:\s*({names})(?s:.*)')
        return self._writer.rule("TEXT", f"{FREE} & ~{begun}")

    def _section(self, section: str, skip: str) -> str:
        """Return an expression for a section of calls, or several.

        Args:
            section: What begins it.
            skip: How it begins, if that has been read already.
        """
        rules, writer = self._rules, self._writer
        end = writer.text(written(rules.section_close)) if section else ""
        between = writer.text(written(rules.between))
        first = self._call(section, skip)
        if not self._more:
            return sequence(first, end)
        if rules.repeat == "section":
            again = sequence(between, self._call(rules.lead + written(rules.section_open), ""), end)
            return sequence(first, end, f"({again})*")
        return sequence(first, f"({sequence(between, self._call('', ''))})*", end)

    def _call(self, before: str, skip: str) -> str:
        """Return an expression for a call of any of the tools, with what stands before it."""
        ways = []
        for name, body in self._bodies.items():
            opening = before.replace("{name}", name) + written(self._rules.open)
            ways.append(sequence(self._writer.text(opening.removeprefix(skip)), body))
        return self._writer.rule("call", one_of(ways))

    def _body(self, tool: ToolDefinition) -> str:
        """Return an expression for a call of `tool`, from behind its opening mark to its closing mark."""
        rules, writer = self._rules, self._writer
        close = writer.text(written(rules.close))
        match rules.form:
            case "object" if self._whole:
                return self._json(_call_schema(rules, tool))
            case "object":
                number = sequence(quoted("{" + encode(rules.index_key) + ': "'), _INDEX) if rules.index_key else ""
                named = f"{encode(rules.name_key)}: {encode(tool.name)}, {encode(rules.arguments_key)}: "
                opening = sequence(number, quoted('", ' + named)) if number else quoted("{" + named)
                own = sequence(quoted(f', {encode(rules.id_key)}: "'), _ID, quoted('"')) if rules.id_key else ""
                return sequence(opening, self._json(_schema(tool)), own, quoted("}"), close)
            case "keyed":
                return sequence(quoted("{" + encode(tool.name) + ": "), self._json(_schema(tool)), quoted("}"), close)
            case "named":
                return sequence(self._header(tool.name), self._json(_schema(tool)), close)
            case _:
                arguments = ArgumentWriter(writer, rules, _schema(tool)).arguments()
                return sequence(self._header(tool.name), arguments, close)

    def _header(self, name: str) -> str:
        """Return an expression for what stands before a call's arguments."""
        header = self._rules.header.replace("{name}", name) + self._rules.name_end
        parts = re.split(r"(\{id\}|\{index\})", header)
        drawn = {"{id}": _ID, "{index}": _INDEX}
        return sequence(*(drawn.get(part) or self._writer.text(part) for part in parts))

    def _json(self, schema: Mapping[str, JsonValue]) -> str:
        """Add a rule for JSON of a schema; return its name."""
        name = self._writer.name("json")
        self._writer.line(lark_rule(name, Grammar("json_schema", json.dumps(schema))))
        return name


def _schema(tool: ToolDefinition) -> dict[str, JsonValue]:
    """Return what a tool's arguments are held to."""
    return {"type": "object", **tool.parameters} if tool.strict else {"type": "object"}


def _call_schema(rules: CallSyntax, tool: ToolDefinition) -> dict[str, JsonValue]:
    """Return the JSON Schema of a whole call, whose arguments are a part of it."""
    key = rules.arguments_key
    arguments = _moved(_schema(tool), f"#/properties/{key}")
    return {
        "type": "object",
        "properties": {rules.name_key: {"const": tool.name}, key: arguments},
        "required": [rules.name_key, key],
        "additionalProperties": False,
    }


def _moved(schema: JsonValue, place: str) -> JsonValue:
    """Return a schema whose references find their way when it stands at `place` of another one."""
    match schema:
        case str():
            return schema
        case Mapping():
            moved = {key: _moved(value, place) for key, value in schema.items()}
            reference = schema.get("$ref")
            if isinstance(reference, str) and reference.startswith("#"):
                moved["$ref"] = place + reference[1:]
            return moved
        case Sequence():
            return [_moved(item, place) for item in schema]
        case _:
            return schema

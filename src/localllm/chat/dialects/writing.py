"""Calls as a family writes them, and the marks that it writes them with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.dialects.json_text import encode, type_of
from localllm.chat.dialects.literals import write_literal, write_python
from localllm.chat.dialects.syntax import CallSyntax, DialectSyntax
from localllm.chat.dialects.tape import written
from localllm.messages import ToolCall


def write_calls(syntax: DialectSyntax, calls: Sequence[ToolCall]) -> str:
    """Return `calls` as the family writes them."""
    rules = syntax.calls
    made = [
        f"{written(rules.open)}{_body(rules, call, index)}{written(rules.close)}" for index, call in enumerate(calls)
    ]
    opens = [rules.lead.replace("{name}", call.name) + written(rules.section_open) for call in calls]
    if rules.section_optional and rules.start_only:
        opens = [""] * len(calls)
    if rules.repeat == "section":
        sections = [f"{first}{body}{written(rules.section_close)}" for first, body in zip(opens, made, strict=True)]
        return rules.between.join(sections)
    return f"{opens[0]}{rules.between.join(made)}{written(rules.section_close)}" if calls else ""


def header_of(rules: CallSyntax, call: ToolCall, index: int) -> str:
    """Return what stands before a call's arguments."""
    if rules.header_is_id and call.id.endswith(tuple("0123456789")) and ":" in call.id:
        return call.id
    return rules.header.replace("{name}", call.name).replace("{index}", str(index)).replace("{id}", call.id)


def _body(rules: CallSyntax, call: ToolCall, index: int) -> str:
    match rules.form:
        case "object":
            number = f"{encode(rules.index_key)}: {encode(str(index))}, " if rules.index_key else ""
            own_id = f", {encode(rules.id_key)}: {encode(call.id)}" if rules.id_key else ""
            named = f"{encode(rules.name_key)}: {encode(call.name)}"
            return f"{{{number}{named}, {encode(rules.arguments_key)}: {encode(call.arguments)}{own_id}}}"
        case "keyed":
            return encode({call.name: dict(call.arguments)})
        case "named":
            return header_of(rules, call, index) + rules.name_end + encode(dict(call.arguments))
        case "tagged":
            parameters = [_parameter(rules, key, value) for key, value in call.arguments.items()]
            name_end = rules.name_end.replace("{index}", str(index + 1))
            return call.name + name_end + rules.param_between.join(parameters)
        case "literal":
            return call.name + write_literal(call.arguments, rules.quotes)
        case "python":
            arguments = ", ".join(f"{key}={write_python(value)}" for key, value in call.arguments.items())
            return f"{call.name}({arguments})"
        case "nested":
            return call.name + rules.name_end + _nested(rules.namespace, call.arguments)


def _parameter(rules: CallSyntax, key: str, value: JsonValue) -> str:
    attributes = attributes_of(rules, type_of(value))
    text = value if isinstance(value, str) else encode(value)
    return f"{rules.param_open}{key}{attributes}{rules.param_name_end}{text}{rules.param_close}"


def attributes_of(rules: CallSyntax, kind: str) -> str:
    """Return what follows an argument's name, for a value of a JSON type."""
    shown = "number" if kind == "integer" else kind
    string = "true" if kind == "string" else "false"
    return rules.param_attributes.replace("{type}", shown).replace("{string}", string)


def _nested(namespace: str, value: JsonValue) -> str:
    items: list[tuple[str, JsonValue]]
    match value:
        case str():
            return value
        case Mapping():
            items = [(key, item) for key, item in value.items() if item is not None]
        case Sequence():
            items = [("item", item) for item in value]
        case _:
            return encode(value)
    return "".join(f"{namespace}<{key}>{_nested(namespace, item)}{namespace}</{key}>" for key, item in items)

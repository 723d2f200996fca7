"""Requests as a cassette shows them: JSON in a fixed form, which is also what requests are told apart by.

A text of several lines is a list of them, so that a diff shows the line that changed. What is at its default is left
out, and so is what changes nothing in the answer: time limits, and how an earlier reply was made.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias, cast

from attrs import fields

from localllm._json import JsonValue
from localllm.backends.base import GenerateRequest, ModelSpec
from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from localllm.options import ModelConfig, RequestOptions
from localllm.types import Message

Form: TypeAlias = dict[str, JsonValue]
"""A JSON object."""

_WIDTH = 112
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_NOT_ASKED = {"timeout_s"}  # how long the caller is ready to wait is no part of what is asked
_ROPE = ("rope_scaling", "rope_freq_scale", "rope_freq_base", "yarn_orig_ctx")
_LOADED_WITH = ("n_ctx", "kv_type", "chat_template", *_ROPE)  # the others say how this machine does it, and not what


def form_of(request: GenerateRequest) -> Form:
    """Return a request's form."""
    form: Form = {"messages": [message_form(message) for message in request.messages]}
    if request.purpose != "reply":
        form["purpose"] = request.purpose
    if request.tools:
        form["tools"] = [_tool_form(tool) for tool in request.tools]
    if request.grammar is not None:
        form["grammar"] = _grammar_form(request.grammar)
    if request.prefix:
        form["prefix"] = lines_of(request.prefix)
    options = _changed(request.options, leave_out=_NOT_ASKED)
    if options:
        form["options"] = options
    return form


def key_of(form: JsonValue) -> str:
    """Return what forms are told apart by: the order of names in an object says nothing."""
    return json.dumps(form, sort_keys=True)


def message_form(message: Message) -> Form:
    """Return a message's form: neither its tokens nor how it ended."""
    form = dict(message.to_dict())
    for name in ("token_ids", "finish_reason"):
        form.pop(name, None)
    for name in ("content", "thought"):
        if name in form:
            form[name] = lines_of(cast("str", form[name]))
    return form


def config_form(config: ModelConfig) -> Form:
    """Return the part of a configuration that replies depend on."""
    return {name: value for name, value in _changed(config).items() if name in _LOADED_WITH}


def ref_form(spec: ModelSpec) -> str:
    """Return a model's reference without what belongs to one machine or one person: folders, and an URL's query."""
    if "://" in spec.ref:
        return re.sub(r"//[^/@]*@", "//", spec.ref).partition("?")[0]
    if spec.ref.startswith("hf:"):
        return spec.ref
    return re.split(r"[/\\]", spec.ref.rstrip("/\\"))[-1]


def prompt_key(messages: Sequence[Message], tools: Sequence[ToolDefinition] = ()) -> str:
    """Return what prompts are told apart by where they are not shown themselves: 16 hexadecimal digits."""
    key = key_of([message_form(message) for message in messages])
    if tools:
        key += key_of([_tool_form(tool) for tool in tools])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def lines_of(text: str) -> JsonValue:
    """Return a text as JSON: as it is, or as the list of its lines if it has several."""
    found = _LINE.findall(text)
    return found if len(found) > 1 else text


def text_of(value: JsonValue, indent: int = 0) -> str:
    """Return JSON as text, the same for the same value, laid out for reading: small things on one line."""
    inner = " " * (indent + 1)
    if _is_flat(value):
        line = _printable(json.dumps(value, ensure_ascii=False))
        if not isinstance(value, (list, dict)) or not value or len(line) + indent <= _WIDTH:
            return line
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, item),) = value.items()
        return f"{{{_printable(json.dumps(key))}: {text_of(item, indent)}}}"
    if isinstance(value, Mapping):
        items = [f"{_printable(json.dumps(key))}: {text_of(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + "\n" + " " * indent + "}"
    if isinstance(value, (list, tuple)):
        return "[\n" + ",\n".join(inner + text_of(item, indent + 1) for item in value) + "\n" + " " * indent + "]"
    raise TypeError(f"{value!r:.80} is no JSON")


def _is_flat(value: JsonValue) -> bool:
    """Whether a value may stand on one line: it holds neither objects in lists nor texts of several lines."""
    if isinstance(value, Mapping):
        return all(_is_flat(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return not any(isinstance(item, Mapping) or str(item).endswith("\n") for item in value)
    return True


def _printable(line: str) -> str:
    """Return JSON with escapes for what a diff would not show, such as marks of direction and lone surrogates."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line)


def _changed(values: RequestOptions | ModelConfig, leave_out: set[str] | frozenset[str] = frozenset()) -> Form:
    """Return the fields that are not at their default."""
    form: Form = {}
    default = type(values)()
    for attribute in fields(type(values)):
        name = attribute.name
        value: object = getattr(values, name)
        if name not in leave_out and value != getattr(default, name):
            form[name] = _option_form(name, value)
    return form


def _option_form(name: str, value: object) -> JsonValue:
    match value:
        case tuple() if name == "logit_bias":
            pairs = cast("tuple[tuple[int, float], ...]", value)
            return {str(token): bias if math.isfinite(bias) else str(bias) for token, bias in pairs}
        case tuple():
            return list(value)
        case str():
            return lines_of(value)
        case float() if value.is_integer():  # temperature=1.0 is temperature=1
            return int(value)
        case _:
            return cast("JsonValue", value)


def _grammar_form(grammar: Grammar) -> Form:
    source: JsonValue = lines_of(grammar.source)
    if grammar.kind in ("json_schema", "choice"):
        with suppress(ValueError, RecursionError):  # then it is shown as text; the backend says what is wrong with it
            source = json.loads(grammar.source)
    return {"kind": grammar.kind, "source": source}


def _tool_form(tool: ToolDefinition) -> Form:
    form: Form = {"name": tool.name, "description": lines_of(tool.description), "parameters": tool.parameters}
    if not tool.strict:
        form["strict"] = False
    return form

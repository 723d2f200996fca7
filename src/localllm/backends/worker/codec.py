"""Messages to bytes and back: msgpack of tagged maps, each value checked on its way in.

Nothing that comes from the other process is trusted to be what it should: a value of the wrong type, an unknown field
or an unknown message is a `CodecError`, and nothing is ever executed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar, cast

import msgspec
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.msgspec import MsgspecJsonConverter, make_converter
from cattrs.strategies import configure_tagged_union

from localllm._json import JsonValue
from localllm.backends.base import ModelSpec
from localllm.backends.worker.failures import to_error, to_failure
from localllm.backends.worker.messages import EventOf, Events, Failure, Finding, Question, ToChild, ToParent
from localllm.chat.definitions import ToolDefinition
from localllm.errors import LocalLLMError
from localllm.types import BackendEvent, TextDelta, ToolCall

_M = TypeVar("_M")
_TAG = "is"


class CodecError(ValueError):
    """Bytes that are no message, or a message that cannot be put into bytes."""


class Codec(Generic[_M]):
    """Reads and writes the messages of one direction. May be used by several threads at once.

    Args:
        union: The type of all its messages.
    """

    def __init__(self, union: object) -> None:
        self._converter = _converter()
        self._union = cast("type[_M]", union)  # typing has no word for "a union type"
        configure_tagged_union(self._union, self._converter, tag_name=_TAG)
        self._unstructure = self._converter.get_unstructure_hook(self._union)
        self._structure = self._converter.get_structure_hook(self._union)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(strict=True)

    def encode(self, message: _M) -> bytes:
        """Return `message` as bytes.

        Raises:
            CodecError: It holds what cannot be sent, such as a text with lone surrogates.
        """
        try:
            return self._encoder.encode(self._unstructure(message))
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise CodecError(f"{type(message).__name__} cannot be sent: {exc}") from exc

    def decode(self, data: bytes) -> _M:
        """Return the message that `data` holds.

        Raises:
            CodecError: It holds none.
        """
        try:
            fields: object = self._decoder.decode(data)
            if not isinstance(fields, dict):
                raise CodecError(f"a message must be a map, not {type(fields).__name__}")
            return cast("_M", self._structure(fields, self._union))
        except CodecError:
            raise
        except Exception as exc:
            # Whatever cattrs, attrs or a validator of ours raises says one thing: this is no message.
            raise CodecError(f"not a message: {type(exc).__name__}: {_said(exc)}".replace("\n", " ")[:400]) from exc


@cache  # making one takes some 10 ms
def child_codec() -> Codec[ToChild]:
    """Return the codec for what goes to the worker."""
    return Codec(ToChild)


@cache
def parent_codec() -> Codec[ToParent]:
    """Return the codec for what comes from the worker."""
    return Codec(ToParent)


def _converter() -> MsgspecJsonConverter:
    converter = make_converter(forbid_extra_keys=True, detailed_validation=False)
    for kind in (bool, int, str):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(
        lambda kind: kind == tuple[int, ...], lambda value, _: msgspec.convert(value, tuple[int, ...])
    )
    converter.register_unstructure_hook(Path, os.fsencode)  # a path need not be text
    converter.register_structure_hook(Path, lambda value, _: Path(os.fsdecode(_bytes(value))))
    converter.register_unstructure_hook(ToolCall, _from_call)
    converter.register_structure_hook(ToolCall, lambda value, _: _to_call(value))
    # by functions, since cattrs resolves the annotations of a class, and JSON's recursive type has a name of its own
    converter.register_unstructure_hook_func(lambda kind: kind is ToolDefinition, _from_definition)
    converter.register_structure_hook_func(lambda kind: kind is ToolDefinition, lambda value, _: _to_definition(value))
    converter.register_unstructure_hook_func(_is_error, lambda error: converter.unstructure(to_failure(error)))
    converter.register_structure_hook_func(
        _is_error, lambda value, _: to_error(converter.structure(_map(value), Failure))
    )
    _carry_references(converter)
    for union in (Question, Finding, BackendEvent):
        configure_tagged_union(union, converter, tag_name=_TAG)
    _carry_events(converter)
    return converter


def _carry_events(converter: MsgspecJsonConverter) -> None:
    """Send text, which comes with every token, in a short form and by few calls.

    Each call between two tokens finds its code gone from the processor's caches, where the model's weights went by.
    """
    from_other, to_other = converter.get_unstructure_hook(BackendEvent), converter.get_structure_hook(BackendEvent)

    def from_events(events: Events) -> dict[str, object]:
        items: list[object] = []
        for item in events.items:
            event = item.event
            if type(event) is TextDelta and not event.logprobs:
                items.append((item.id, event.text, event.segment, event.token_ids))
            else:
                items.append((item.id, from_other(event)))
        return {"items": items}

    def to_events(value: object, _: object) -> Events:
        items = value.get("items") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(items, list):
            raise TypeError(f"{value!r:.80} is no list of events")
        return Events(tuple([to_event(item) for item in items]))

    def to_event(item: object) -> EventOf:
        if type(item) is list and item and type(item[0]) is int:
            if len(item) == 4:
                return EventOf(item[0], to_text(item))
            if len(item) == 2 and type(item[1]) is dict:
                return EventOf(item[0], to_other(item[1], BackendEvent))
        raise TypeError(f"{item!r:.80} is no event")

    def to_text(item: list[object]) -> TextDelta:
        _, text, segment, tokens = item
        if type(text) is str and (segment == "text" or segment == "thought") and type(tokens) is list:
            for token in tokens:
                if type(token) is not int:
                    raise TypeError(f"{token!r:.80} is no token")
            return TextDelta(text, segment, tuple(tokens))
        raise TypeError(f"{item!r:.80} is no text")

    converter.register_unstructure_hook(Events, from_events)
    converter.register_structure_hook(Events, to_events)


def _carry_references(converter: MsgspecJsonConverter) -> None:
    """Send a model's reference as bytes: it may be a path."""
    as_bytes = override(
        unstruct_hook=os.fsencode,
        struct_hook=lambda value, _: os.fsdecode(_bytes(value)),
    )
    converter.register_unstructure_hook(ModelSpec, make_dict_unstructure_fn(ModelSpec, converter, ref=as_bytes))
    structure = make_dict_structure_fn(
        ModelSpec, converter, ref=as_bytes, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=False
    )
    converter.register_structure_hook(ModelSpec, structure)


_V = TypeVar("_V")


def _exactly(kind: type[_V]) -> Callable[[object, object], _V]:
    """Return a check: a value of exactly this type, for 1 is not True, and "1" is not 1."""

    def check(value: object, _: object) -> _V:
        if type(value) is not kind:
            raise TypeError(f"{value!r:.80} is no {kind.__name__}")
        return value

    return check


def _number(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.80} is no number")
    return float(value)


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{value!r:.80} is no bytes")
    return value


def _map(value: object) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.80} is no map")
    return value


def _from_call(call: ToolCall) -> str:
    # As JSON, for arguments may hold integers of any size, which msgpack has no room for.
    return json.dumps(call.to_dict())


def _to_call(value: object) -> ToolCall:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no tool call")
    return ToolCall.from_dict(json.loads(value))


def _from_definition(tool: ToolDefinition) -> list[object]:
    return [tool.name, tool.description, json.dumps(dict(tool.parameters)), tool.strict]  # as JSON, as above


def _to_definition(value: object) -> ToolDefinition:
    match value:
        case [str(name), str(description), str(parameters), bool(strict)]:
            return ToolDefinition(name, description, _map(json.loads(parameters)), strict)
        case _:
            raise TypeError(f"{value!r:.80} is no tool definition")


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, LocalLLMError)


def _said(exc: BaseException) -> str:
    """Return an exception's text; cattrs has none for a map with a key that is no text."""
    try:
        return str(exc)
    except TypeError:
        return "a key that is no text"

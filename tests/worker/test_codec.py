"""Messages: every one round-trips, and nothing else is taken for one."""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from typing import get_args

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.backends.base import GenerateRequest
from localllm.backends.worker import messages
from localllm.backends.worker.codec import CodecError, child_codec, parent_codec
from localllm.backends.worker.failures import to_error, to_failure
from localllm.backends.worker.messages import Cancel, EventOf, Events, Generate, ToChild, ToParent
from localllm.errors import (
    BackendError,
    ContextOverflowError,
    LocalLLMError,
    ModelLoadError,
    TruncatedOutputError,
    WorkerCrashedError,
)
from localllm.types import GenerationEnded, Message, TextDelta, ToolCall
from tests.worker import samples


def _comparable(message: object) -> object:
    """Return a message with its errors as values, which compare."""
    if isinstance(message, Events):
        return tuple(
            (item.id, attrs.evolve(item.event, error=None, finish_reason="stop"), to_failure(item.event.error))
            if isinstance(item.event, GenerationEnded) and item.event.error is not None
            else item
            for item in message.items
        )
    return message


@given(samples.to_child)
def test_every_message_to_the_worker_round_trips(message: ToChild) -> None:
    """Whatever it holds."""
    assert child_codec().decode(child_codec().encode(message)) == message


@given(samples.to_parent)
def test_every_message_from_the_worker_round_trips(message: ToParent) -> None:
    """Whatever it holds, errors in it as the same class with the same text and figures."""
    assert _comparable(parent_codec().decode(parent_codec().encode(message))) == _comparable(message)


def test_fields_that_are_not_compared_round_trip_too() -> None:
    """The tokens of a delta and of a message."""
    delta = TextDelta("x", token_ids=(1, 2))
    item = parent_codec().decode(parent_codec().encode(Events((EventOf(1, delta),))))
    assert isinstance(item, Events)
    event = item.items[0].event
    assert isinstance(event, TextDelta)
    assert event.token_ids == (1, 2)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_message(data: bytes) -> None:
    """They are refused with one kind of error, or happen to be a message."""
    for codec in (child_codec(), parent_codec()):
        with suppress(CodecError):
            codec.decode(data)


def _mutated(encoded: bytes, data: st.DataObject) -> bytes:
    """Return `encoded` with one byte changed, left out or put in."""
    position = data.draw(st.integers(0, len(encoded) - 1))
    rest = encoded[position + data.draw(st.integers(0, 1)) :]
    return encoded[:position] + data.draw(st.binary(max_size=1)) + rest


@given(samples.to_child, st.data())
def test_mutated_messages_to_the_worker_are_refused_or_are_messages(message: ToChild, data: st.DataObject) -> None:
    """Never another error, never anything that is no message."""
    with suppress(CodecError):
        assert isinstance(child_codec().decode(_mutated(child_codec().encode(message), data)), get_args(ToChild))


@given(samples.to_parent, st.data())
def test_mutated_messages_from_the_worker_are_refused_or_are_messages(message: ToParent, data: st.DataObject) -> None:
    """Never another error, never anything that is no message."""
    with suppress(CodecError):
        assert isinstance(parent_codec().decode(_mutated(parent_codec().encode(message), data)), get_args(ToParent))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"is": "Cancel", "id": "1"}, "'1' is no int"),
        ({"is": "Cancel", "id": True}, "True is no int"),
        ({"is": "Cancel", "id": 1.0}, "1.0 is no int"),
        ({"is": "Cancel"}, "id"),
        ({"is": "Cancel", "id": 1, "more": 2}, "more"),
        ({"is": "Cancel", "id": 1, 4.5: 2}, "a key that is no text"),
        ({"is": "Cancle", "id": 1}, "Cancle"),
        ({"is": ["Cancel"], "id": 1}, "unhashable"),
        ({"id": 1}, "is"),
        ([1, 2], "a message must be a map, not list"),
        (None, "a message must be a map, not NoneType"),
        ({"is": "Ask", "id": 1, "question": {"is": "Detokenize", "tokens": ["1"]}}, "Expected `int`"),
        ({"is": "Load", "spec": {"ref": "text"}}, "no bytes"),
    ],
)
def test_what_is_no_message_is_refused(fields: object, says: str) -> None:
    """Wrong types, missing, unknown and unhashable fields, unknown messages, and no map at all."""
    with pytest.raises(CodecError, match=says):
        child_codec().decode(msgspec.msgpack.encode(fields))


def test_options_are_validated_on_their_way_in() -> None:
    """A message with an option out of range is no message."""
    good = msgspec.msgpack.decode(child_codec().encode(Generate(1, GenerateRequest(messages=()))))
    good["request"]["options"] = {"temperature": -1.0}
    with pytest.raises(CodecError, match="temperature must be"):
        child_codec().decode(msgspec.msgpack.encode(good))


@pytest.mark.parametrize(
    "item",
    [
        [True, "x", "text", []],
        [1, 7, "text", []],
        [1, "x", "shout", []],
        [1, "x", ["text"], []],
        [1, "x", "text", [True]],
        [1, "x", "text", ["1"]],
        [1, "x", "text", None],
        [1, "x", "text"],
        [1, []],
        [True, {"is": "TextDelta", "text": "x"}],
        [1],
        [],
        "x",
        None,
    ],
)
def test_what_is_no_event_is_refused(item: object) -> None:
    """Text has a form of its own on the wire, checked by hand: of exactly these types, and so many of them."""
    good = parent_codec().encode(Events((EventOf(1, TextDelta("x")),)))
    fields = msgspec.msgpack.decode(good)
    assert fields["items"] == [[1, "x", "text", []]]
    with pytest.raises(CodecError):
        parent_codec().decode(msgspec.msgpack.encode(fields | {"items": [item]}))


def test_a_deep_message_is_refused_and_not_followed() -> None:
    """A hundred thousand lists in each other do not end the process."""
    with pytest.raises(CodecError):
        parent_codec().decode(b"\x91" * 100_000 + b"\xc0")


@pytest.mark.parametrize("text", ["\udc80", "a\ud800b"])
def test_what_cannot_be_sent_says_so(text: str) -> None:
    """A lone surrogate has no UTF-8."""
    with pytest.raises(CodecError, match="Events cannot be sent"):
        parent_codec().encode(Events((EventOf(1, TextDelta(text)),)))


def test_integers_of_any_size_fit_into_tool_calls() -> None:
    """JSON has no limit, so the wire must not have one there."""
    end = GenerationEnded("tool_calls", tool_calls=(ToolCall("f", {"n": 10**100}),))
    assert parent_codec().decode(parent_codec().encode(Events((EventOf(1, end),)))) == Events((EventOf(1, end),))


def test_a_message_is_sent_by_one_codec_only() -> None:
    """What goes to the worker is nothing that comes from it."""
    with pytest.raises(CodecError, match="Cancel"):
        parent_codec().decode(child_codec().encode(Cancel(1)))


@pytest.mark.parametrize("union", [ToChild, ToParent])
def test_every_message_says_its_direction_and_version(union: object) -> None:
    """In its docstring; and it is frozen."""
    for kind in get_args(union):
        assert re.match(r"(To|From) the worker.*Since \d", inspect.getdoc(kind) or "", re.DOTALL), kind
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            kind.__setattr__(object.__new__(kind), "id", 1)


def _carried(error: LocalLLMError) -> object:
    """Return an error as the other process gets it."""
    item = parent_codec().decode(parent_codec().encode(Events((EventOf(1, GenerationEnded("error", error=error)),))))
    assert isinstance(item, Events)
    event = item.items[0].event
    assert isinstance(event, GenerationEnded)
    return event.error


@pytest.mark.parametrize("kind", samples.kinds, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(st.data())
def test_every_error_of_ours_arrives_as_itself(kind: type[LocalLLMError], data: st.DataObject) -> None:
    """Same class, same text, and every attribute that it has, whatever was added to the class meanwhile."""
    error = data.draw(samples.errors_of(kind))
    found = _carried(error)
    assert type(found) is kind
    assert str(found) == str(error)
    assert vars(found) == vars(error)


@pytest.mark.parametrize("kind", samples.kinds, ids=lambda kind: kind.__name__)
def test_whatever_an_error_has_its_constructor_takes(kind: type[LocalLLMError]) -> None:
    """Else it could not be made again in the other process: an attribute that is only annotated, or made up."""
    taken = set(inspect.signature(kind).parameters)
    annotated = {name for base in kind.__mro__ if issubclass(base, LocalLLMError) for name in base.__annotations__}
    assert annotated | set(vars(kind("what happened"))) <= taken


def test_notes_of_an_error_arrive() -> None:
    """Those that `add_note` made, in order."""
    error = BackendError("boom")
    error.add_note("first \udc80")
    error.add_note("second")
    assert getattr(_carried(error), "__notes__", ()) == [r"first \udc80", "second"]


def test_an_attribute_that_json_cannot_hold_is_left_out() -> None:
    """The error arrives all the same."""
    found = _carried(TruncatedOutputError("cut", partial={"a": object()}))
    assert isinstance(found, TruncatedOutputError)
    assert found.partial is None


@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("BackendError", '{"path": "/a"}'),
        ("InvalidSchemaError", '{"path": 7}'),
        ("InvalidSchemaError", '{"reply": null}'),
        ("ContextOverflowError", '{"prompt_tokens": "many"}'),
        ("WorkerCrashedError", '{"stderr": "line"}'),
        ("BackendError", "[]"),
        ("BackendError", "nothing"),
        ("Unheard", '{"path": ""}'),
    ],
)
def test_details_that_an_error_does_not_take_are_no_message(kind: str, details: str) -> None:
    """Names that it has not, values of another type, and what is no object."""
    end = parent_codec().encode(Events((EventOf(1, GenerationEnded("error", error=BackendError("x"))),)))
    fields = msgspec.msgpack.decode(end)
    fields["items"][0][1]["error"] |= {"kind": kind, "details": details}
    with pytest.raises(CodecError):
        parent_codec().decode(msgspec.msgpack.encode(fields))


def test_an_error_keeps_its_figures_and_tells_its_cause() -> None:
    """The cause, which may be of any class, as text."""
    error = ContextOverflowError("too long", prompt_tokens=10, context_tokens=8)
    error.__cause__ = KeyError("x")
    found = to_error(to_failure(error))
    assert isinstance(found, ContextOverflowError)
    assert (found.prompt_tokens, found.context_tokens) == (10, 8)
    assert found.__notes__ == ["in the worker it came from KeyError: 'x'"]


class _Own(BackendError):
    pass


def test_other_errors_become_the_nearest_of_ours() -> None:
    """A user's own subclass its base; a foreign one what its place is; an unknown name a BackendError."""
    assert type(to_error(to_failure(_Own("x")))) is BackendError
    loading = to_error(to_failure(OSError("disk \udc80 full"), ModelLoadError))
    assert type(loading) is ModelLoadError
    assert str(loading) == r"OSError: disk \udc80 full"
    assert type(to_error(messages.Failure(kind="SystemExit", message="x"))) is BackendError
    assert type(to_error(messages.Failure(kind="LocalLLMError", message="x"))) is LocalLLMError
    assert type(to_error(to_failure(WorkerCrashedError("x", exit_code=3)))) is WorkerCrashedError


def test_messages_of_a_history_are_checked() -> None:
    """A message with NUL in a user's text is none."""
    encoded = child_codec().encode(Generate(1, GenerateRequest(messages=(Message.user("a"),))))
    with pytest.raises(CodecError, match="NUL"):
        child_codec().decode(encoded.replace(b"\xa1a", b"\xa1\x00"))

"""The values of a conversation: what they refuse, and that JSON brings them back as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast, get_args

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from localllm import (
    BackendError,
    FinishReason,
    GenerationEnded,
    InvalidPromptError,
    JsonValue,
    Message,
    PromptTypeError,
    Reply,
    Role,
    Timings,
    TokenIds,
    TokenLogprob,
    ToolCall,
    Usage,
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | texts
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
tool_calls = st.builds(ToolCall, texts, st.dictionaries(texts, json_values, max_size=3), texts)
finish_reasons = st.sampled_from(get_args(FinishReason))
token_ids = st.builds(TokenIds, texts, st.lists(st.integers(0, 2**31)).map(tuple))
messages = st.builds(
    Message,
    st.sampled_from(get_args(Role)),
    texts,
    thought=st.none() | texts,
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    tool_call_id=st.none() | texts,
    finish_reason=st.none() | finish_reasons,
    token_ids=st.none() | token_ids,
)
counts = st.integers(0, 2**40)
seconds = st.floats(0, 1e6)
likely = st.tuples(counts, texts, st.floats(max_value=0, allow_nan=False))
logprobs = st.builds(
    lambda one, top: TokenLogprob(one[0], one[1], one[2], top), likely, st.lists(likely, max_size=3).map(tuple)
)
replies = st.builds(
    lambda message, reason, usage, timings, dropped, chances, noted: Reply(
        message.content,
        message,
        reason,
        usage,
        timings,
        thought=message.thought,
        tool_calls=message.tool_calls,
        dropped=dropped,
        logprobs=chances,
        notes=noted,
    ),
    messages,
    finish_reasons,
    st.builds(Usage, counts, counts, counts, counts),
    st.builds(Timings, seconds, seconds, seconds, seconds, seconds),
    st.lists(messages, max_size=2).map(tuple),
    st.lists(logprobs, max_size=3).map(tuple),
    st.lists(texts, max_size=2).map(tuple),
)


def _through_json(data: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return cast("dict[str, JsonValue]", json.loads(json.dumps(data)))


@given(messages)
def test_a_message_survives_json(message: Message) -> None:
    """Also what is not compared: how it ended, and its tokens."""
    back = Message.from_dict(_through_json(message.to_dict()))
    assert back == message
    assert (back.finish_reason, back.token_ids) == (message.finish_reason, message.token_ids)


@given(replies)
def test_a_reply_survives_json(reply: Reply) -> None:
    """`parsed` aside, which belongs to the caller's own types."""
    assert Reply.from_dict(_through_json(reply.to_dict())) == reply
    assert Reply.from_dict(json.loads(reply.to_json())) == reply


@given(logprobs)
def test_log_probabilities_are_json_as_any_reader_takes_it(one: TokenLogprob) -> None:
    """Those of what cannot be, too: JSON has no infinite numbers."""
    text = json.dumps(one.to_dict(), allow_nan=False)
    assert TokenLogprob.from_dict(json.loads(text)) == one


@given(tool_calls)
def test_a_tool_call_survives_json(call: ToolCall) -> None:
    """With whatever JSON its arguments hold."""
    assert ToolCall.from_dict(_through_json(call.to_dict())) == call


def test_a_plain_message_is_a_plain_object() -> None:
    """Defaults are left out."""
    assert Message.user("hi").to_dict() == {"role": "user", "content": "hi"}
    assert Message.system("s") == Message("system", "s")


def test_messages_are_compared_by_what_they_say() -> None:
    """How one ended and its tokens are not compared, nor shown; equal messages have one hash."""
    message = Message("assistant", "a", finish_reason="stop", token_ids=TokenIds("m", (1, 2)))
    assert message == Message("assistant", "a")
    assert hash(message) == hash(Message("assistant", "a"))
    assert "token" not in repr(message)
    assert hash(Message("assistant", "", tool_calls=[ToolCall("f", {"x": [1]})])) is not None


def test_values_cannot_be_changed() -> None:
    """They may be shared between threads."""
    with pytest.raises(FrozenInstanceError):
        Message.user("a").content = "b"  # type: ignore[misc]
    assert evolve(Message.user("a"), content="b") == Message.user("b")


@pytest.mark.parametrize(
    ("role", "content", "more", "error", "says"),
    [
        ("robot", "x", {}, InvalidPromptError, "unknown role 'robot'; use one of system, user, assistant, tool"),
        (7, "x", {}, PromptTypeError, "role must be a str, not int"),
        ("user", None, {}, PromptTypeError, "the content of a user message must be a str, not NoneType"),
        ("user", b"x", {}, PromptTypeError, "not bytes"),
        ("user", "a\ud83db", {}, InvalidPromptError, r"lone surrogate \(U\+D83D\) at index 1"),
        ("user", "a\0", {}, InvalidPromptError, r"NUL \(U\+0000\) at index 1"),
        ("tool", "\0", {}, InvalidPromptError, "NUL"),
        ("assistant", "x", {"thought": 7}, PromptTypeError, "a message's thought must be a str, not int"),
        ("assistant", "x", {"tool_calls": ["f"]}, PromptTypeError, "tool_calls holds str, not ToolCall"),
        ("tool", "x", {"tool_call_id": 7}, PromptTypeError, "tool_call_id must be a str"),
    ],
)
def test_a_message_that_cannot_be_is_refused(
    role: Role, content: str, more: dict[str, str], error: type[Exception], says: str
) -> None:
    """With what is wrong, and where."""
    with pytest.raises(error, match=says) as caught:
        Message(role, content, **more)  # type: ignore[arg-type]
    assert isinstance(caught.value, ValueError)


def test_the_models_own_text_may_hold_nul() -> None:
    """What a model generated is kept as it is."""
    assert Message("assistant", "\0").content == "\0"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, r"missing \['role', 'content'\]"),
        ({"role": "user"}, r"missing \['content'\]"),
        ({"role": "user", "content": "x", "name": "y"}, r"unknown \['name'\]"),
        ({"role": "user", "content": 7}, "must be a str, not int"),
        ({"role": 7, "content": "x"}, "must be a str, not int"),
        ({"role": "user", "content": "x", "thought": 7}, "thought must be a str"),
        ({"role": "user", "content": "x", "tool_call_id": 7}, "tool_call_id must be a str"),
        ({"role": "user", "content": "x", "finish_reason": "bored"}, "unknown finish_reason 'bored'"),
        ({"role": "user", "content": "x", "tool_calls": "f"}, "must be a list"),
        ({"role": "user", "content": "x", "tool_calls": ["f"]}, "a tool call must be a JSON object"),
        ({"role": "user", "content": "x", "tool_calls": [{}]}, r"missing \['name'\]"),
        ({"role": "user", "content": "x", "tool_calls": [{"name": "f", "arguments": []}]}, "arguments must be a JSON"),
        ({"role": "user", "content": "x", "token_ids": 7}, "token_ids must be a JSON object"),
        ({"role": "user", "content": "x", "token_ids": {"model_hash": "m", "tokens": ["a"]}}, "no token id"),
        ({"role": "user", "content": "x", "token_ids": {"model_hash": "m", "tokens": [-1]}}, "no token id"),
        ({"role": "user", "content": "x", "token_ids": {"tokens": []}}, r"missing \['model_hash'\]"),
        ([], "must be a JSON object, not list"),
    ],
    ids=repr,
)
def test_json_that_is_no_message_is_refused(data: dict[str, JsonValue], says: str) -> None:
    """With what is wrong with it."""
    with pytest.raises(InvalidPromptError, match=says):
        Message.from_dict(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"finish_reason": "bored"}, "unknown finish_reason"),
        ({"usage": {"prompt_tokens": "many"}}, "a value that is no number"),
        ({"usage": {"tokens": 1}}, r"unknown \['tokens'\]"),
        ({"timings": 7}, "Timings must be a JSON object"),
        ({"message": "hi"}, "a reply's message must be a JSON object"),
        ({"dropped": [7]}, "a dropped message must be a JSON object"),
        ({"dropped": 7}, "must be a list"),
        ({"logprobs": 7}, "must be a list"),
        ({"logprobs": [7]}, "a log-probability must be a JSON object"),
        ({"logprobs": [{"token": 7, "text": "x"}]}, r"missing \['logprob'\]"),
        ({"logprobs": [{"token": "7", "text": "x", "logprob": -1}]}, "no token, text and log-probability"),
        ({"logprobs": [{"token": 7, "text": "x", "logprob": True}]}, "no token, text and log-probability"),
        ({"logprobs": [{"token": 7, "text": "x", "logprob": -1, "top": [[7, "x"]]}]}, "no token, text and log"),
    ],
    ids=repr,
)
def test_json_that_is_no_reply_is_refused(change: dict[str, JsonValue], says: str) -> None:
    """With what is wrong with it."""
    reply = Reply("x", Message("assistant", "x"), "stop", Usage(), Timings())
    with pytest.raises(InvalidPromptError, match=says):
        Reply.from_dict({**reply.to_dict(), **change})


def test_a_backends_end_is_consistent() -> None:
    """An error if and only if the reason says so."""
    GenerationEnded("error", error=BackendError("x"))
    with pytest.raises(ValueError, match="does not go with"):
        GenerationEnded("error")
    with pytest.raises(ValueError, match="does not go with"):
        GenerationEnded("stop", error=BackendError("x"))

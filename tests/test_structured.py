"""Replies with a schema: `parsed`, `partials()`, and what becomes of one that is cut off or refused."""

from __future__ import annotations

import asyncio
import enum
from typing import Literal, NamedTuple, TypedDict

import attrs
import pytest
from attrs import frozen

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    FakeBackend,
    FakeReply,
    GenerationTimeoutError,
    InvalidOptionError,
    Message,
    OutputValidationError,
    Reply,
    ScriptError,
    StreamConsumedError,
    ToolCall,
    TruncatedOutputError,
    UnsupportedSchemaError,
)
from localllm.chat.grammar import Grammar
from localllm.testing import ManualClock
from tests.chats import chatting, texts


@frozen
class Person:
    """Someone."""

    name: str
    age: int = attrs.field(validator=attrs.validators.lt(200))


class Color(enum.Enum):
    """A color."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    """A place."""

    x: int
    y: int


class Row(TypedDict):
    """A row."""

    n: int


def value_of(reply: Reply[object]) -> object:
    """Return a reply's value, whatever its type says: one that is not whole has none."""
    return reply.parsed


ADA = '{"name": "Ada", "age": 36}'


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (Person, ADA, Person("Ada", 36)),
        (list[Person], f"[{ADA}]", [Person("Ada", 36)]),
        (Literal["yes", "no"], '"yes"', "yes"),
        (Color, '"red"', Color.RED),
        (Person | None, "null", None),
        (int, "7", 7),
        (Row, '{"n": 1}', {"n": 1}),
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        ({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, '{"a": true}', {"a": True}),
    ],
    ids=repr,
)
def test_the_reply_has_the_value(schema: type[object], text: str, value: object) -> None:
    """Of the schema's type, beside the text; the model was held to it."""
    with chatting(text) as (chat, backend):
        reply = chat.send("hi", schema=schema)
        assert (reply.parsed, reply.text) == (value, text)
        assert chat.history[-1].content == text
        grammar = backend.requests[0].grammar
        assert grammar is not None
        assert grammar.kind == "json_schema"


def test_without_a_schema_there_is_no_value() -> None:
    """Also where a regular expression, a choice or a grammar holds the text."""
    with chatting("abc", "no", "x", "free") as (chat, backend):
        assert chat.send("hi", regex="[a-c]+").parsed is None
        assert chat.send("hi", choice=["yes", "no"]).parsed is None
        assert chat.send("hi", grammar='start: "x"').parsed is None
        assert chat.send("hi").parsed is None
        assert [request.grammar for request in backend.requests] == [
            Grammar("regex", "[a-c]+"),
            Grammar("choice", '["yes", "no"]'),
            Grammar("lark", 'start: "x"'),
            None,
        ]


def test_a_reply_cut_off_is_told_with_what_there_is_of_it() -> None:
    """By `send`, by iteration and by `.reply`; the turn is kept, as a cancelled one is, and can be continued."""
    with chatting(ADA, ADA, " 36}") as (chat, _):
        with pytest.raises(TruncatedOutputError, match="raise max_tokens") as caught:
            chat.send("hi", schema=Person, max_tokens=2)
        assert caught.value.partial == {"name": "Ada"}
        reply = caught.value.reply
        assert reply is not None
        assert (reply.finish_reason, reply.parsed) == ("length", None)
        assert ADA.startswith(reply.text)
        assert texts(chat.history) == ["hi", reply.text]
        chat.undo()
        stream = chat.stream("hi", schema=Person, max_tokens=3)
        with pytest.raises(TruncatedOutputError):
            for _ in stream:
                pass
        with pytest.raises(TruncatedOutputError):
            stream.reply  # noqa: B018
        cut = chat.history[-1].content
        assert cut == '{"name": "Ada", "age":'
        assert chat.continue_reply(schema=Person).parsed == Person("Ada", 36)
        assert texts(chat.history) == ["hi", ADA]


def test_a_reply_cut_off_at_its_very_end_is_whole() -> None:
    """All of it is there."""
    with chatting("1", "hi") as (chat, _):
        assert chat.send("hi", schema=int, max_tokens=1).parsed == 1


def test_a_reply_that_the_type_refuses_is_an_error() -> None:
    """By a validator of its own, which no grammar holds; the text is in the exception, and the history as it was."""
    with chatting('{"name": "Methuselah", "age": 969}') as (chat, _):
        with pytest.raises(OutputValidationError, match="age") as caught:
            chat.send("hi", schema=Person)
        assert caught.value.reply is not None
        assert caught.value.reply.text.endswith("969}")
        assert chat.history == ()


def test_a_time_out_or_a_cancel_has_no_value() -> None:
    """As without a schema: the time-out is raised, and the reply is what was delivered."""
    clock = ManualClock(auto_advance=True)
    with chatting(FakeReply(ADA, delay_s=1), ADA, clock=clock) as (chat, _):
        with pytest.raises(GenerationTimeoutError):
            chat.send("hi", schema=Person, timeout_s=2.5)
        stream = chat.stream("hi", schema=Person)
        next(stream)
        stream.cancel()
        assert stream.reply.finish_reason == "cancelled"
        assert value_of(stream.reply) is None


def test_partials_grow_up_to_the_value() -> None:
    """Each differs from the one before and holds it; the last is the whole."""
    with chatting(FakeReply(chunks=list(ADA))) as (chat, _):
        stream = chat.stream("hi", schema=Person)
        seen = list(stream.partials())
        assert seen == [{}, {"name": ""}, {"name": "A"}, {"name": "Ad"}, {"name": "Ada"}, {"name": "Ada", "age": 36}]
        assert stream.reply.parsed == Person("Ada", 36)
        assert list(stream.partials()) == []
        for other in (lambda: iter(stream), stream.events):
            with pytest.raises(StreamConsumedError, match="already read as partials"):
                other()


def test_leaving_partials_cancels() -> None:
    """As with the other iterators."""
    with chatting(FakeReply(chunks=list(ADA))) as (chat, _):
        for partial in chat.stream("hi", schema=Person).partials():
            if partial == {"name": "A"}:
                break
        assert texts(chat.history) == ["hi", '{"name": "A']


def test_partials_need_a_schema() -> None:
    """And no other view before."""
    with chatting("hello", ADA) as (chat, _):
        stream = chat.stream("hi")
        with pytest.raises(InvalidOptionError, match="has no schema"):
            stream.partials()
        assert next(stream).text == "hello"
        stream.cancel()
        other = chat.stream("hi", schema=Person)
        next(other)
        with pytest.raises(StreamConsumedError, match="already read as chunks"):
            other.partials()


def test_bad_schemas_are_refused_before_anything_is_sent() -> None:
    """What cannot be enforced, what is none, and two wishes at once; the session stays free."""
    with chatting("fine") as (chat, backend):
        with pytest.raises(UnsupportedSchemaError, match="not"):
            chat.send("hi", schema={"not": {"type": "string"}})
        with pytest.raises(InvalidOptionError, match="schema must be a type"):
            chat.send("hi", schema=7)  # type: ignore[call-overload]
        with pytest.raises(InvalidOptionError, match="schema and regex exclude each other"):
            chat.send("hi", schema=Person, regex="x")
        assert backend.requests == ()
        chat.send("hi")


def test_a_script_that_departs_from_the_schema_is_told() -> None:
    """The fake holds a test to what a model could have said."""
    with chatting('{"name": 7}') as (chat, _), pytest.raises(ScriptError, match="departs from the json_schema"):
        chat.send("hi", schema=Person)


def test_calls_come_before_the_value() -> None:
    """The text of the last answer is what is read; partials begin anew with it."""

    def age(name: str) -> int:
        return 36

    ask = FakeReply(tool_calls=(ToolCall("age", {"name": "Ada"}),))
    with chatting(ask, FakeReply(chunks=list(ADA)), ask, tools=[age]) as (chat, _):
        stream = chat.stream("hi", schema=Person)
        assert list(stream.partials())[-1] == {"name": "Ada", "age": 36}
        assert stream.reply.parsed == Person("Ada", 36)
        reply = chat.send("hi", schema=Person, run_tools=False)
        assert reply.finish_reason == "tool_calls"
        assert value_of(reply) is None


def test_a_prefix_is_part_of_the_value() -> None:
    """The model goes on from it; it counts for text, value and partials."""
    with chatting(FakeReply(chunks=['"Ada", ', '"age": 36}'])) as (chat, backend):
        stream = chat.stream("hi", schema=Person, prefix='{"name": ')
        assert list(stream.partials()) == [{"name": "Ada"}, {"name": "Ada", "age": 36}]
        assert stream.reply.text == ADA
        assert stream.reply.parsed == Person("Ada", 36)
        assert backend.requests[0].prefix == '{"name": '


def test_whatever_asks_takes_a_schema() -> None:
    """Another answer, alternatives and the rest of a cut one, too; none remembers the schema of the old reply."""
    bob = '{"name": "Bob", "age": 7}'
    with chatting(ADA, bob, FakeReply(chunks=list(ADA)), "free", ADA, bob, ADA, " 36}") as (chat, backend):
        assert chat.send("hi", schema=Person).parsed == Person("Ada", 36)
        assert chat.regenerate(schema=Person).parsed == Person("Bob", 7)
        again = chat.stream_regenerate(schema=Person)
        assert list(again.partials())[-1] == {"name": "Ada", "age": 36}
        assert again.reply.parsed == Person("Ada", 36)
        assert chat.regenerate().parsed is None
        assert texts(chat.history) == ["hi", "free"]
        ada, bo = chat.alternatives("and?", 2, schema=Person)
        assert (ada.parsed, bo.parsed) == (Person("Ada", 36), Person("Bob", 7))
        chat.choose(bo)
        assert texts(chat.history) == ["hi", "free", "and?", bob]
        with pytest.raises(TruncatedOutputError):
            chat.regenerate(schema=Person, max_tokens=3)
        rest = chat.stream_continue(schema=Person)
        assert list(rest.partials()) == [{"name": "Ada", "age": 36}]
        assert rest.reply.parsed == Person("Ada", 36)
        held = [request.grammar is not None for request in backend.requests]
        assert held == [True, True, True, False, True, True, True, True]


def test_an_answer_again_that_the_type_refuses_leaves_the_old_one() -> None:
    """As any failed one does."""
    with chatting(ADA, '{"name": "Methuselah", "age": 969}') as (chat, _):
        chat.send("hi")
        with pytest.raises(OutputValidationError, match="age"):
            chat.regenerate(schema=Person)
        assert texts(chat.history) == ["hi", ADA]


def test_async_sessions_have_values_and_partials() -> None:
    """The same, awaited."""

    async def main() -> None:
        script: list[str | FakeReply] = [ADA, ADA, ADA, ADA, ADA, FakeReply(chunks=list(ADA)), ADA, " 36}"]
        async with AsyncModelManager(FakeBackend(script)) as models:
            chat = AsyncChatSession(await models.load("fake"))
            assert (await chat.send("hi", schema=Person)).parsed == Person("Ada", 36)
            assert (await chat.regenerate(schema=Person)).parsed == Person("Ada", 36)
            assert (await chat.stream_regenerate(schema=Person).reply()).parsed == Person("Ada", 36)
            replies = await chat.alternatives("hi", 2, schema=Person)
            assert [reply.parsed for reply in replies] == [Person("Ada", 36)] * 2
            stream = chat.stream("hi", schema=Person)
            assert [partial async for partial in stream.partials()][-1] == {"name": "Ada", "age": 36}
            assert (await stream.reply()).parsed == Person("Ada", 36)
            with pytest.raises(TruncatedOutputError):
                await chat.send("hi", schema=Person, max_tokens=3)
            assert chat.history[-2] == Message.user("hi")
            assert (await chat.stream_continue(schema=Person).reply()).parsed == Person("Ada", 36)

    asyncio.run(asyncio.wait_for(main(), 15))

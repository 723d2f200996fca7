"""FakeBackend: what a test scripts is what its application gets, with the figures of a real model."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Unpack, cast

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from localllm.backends.base import GenerateRequest, LoadedModel, ModelSpec
from localllm.backends.fake import FakeBackend, FakeReply
from localllm.chat.grammar import Grammar
from localllm.errors import (
    BackendError,
    ContextOverflowError,
    InvalidOptionError,
    InvalidPromptError,
    LocalLLMError,
    PromptTypeError,
    QueueFullError,
    ScriptError,
)
from localllm.options import GenerationOptions, ModelConfig, RequestOptions
from localllm.testing import Collected, EventLog, ManualClock, collect
from localllm.types import GenerationEnded, Message, PromptProgress, TextDelta, ToolCall


def load(backend: FakeBackend, config: ModelConfig | None = None) -> LoadedModel:
    """Load any model."""
    return backend.load(ModelSpec(ref="any", config=config or ModelConfig()))


def asking(text: str = "Hi", **options: Unpack[GenerationOptions]) -> GenerateRequest:
    """A request with one user message."""
    return GenerateRequest(messages=(Message.user(text),), options=RequestOptions(**options))


def play(reply: str | FakeReply | Exception, **options: Unpack[GenerationOptions]) -> Collected:
    """The whole of one reply."""
    return collect(load(FakeBackend([reply])), asking(**options))


def pieces(collected: Collected) -> list[tuple[str, str]]:
    """Text and segment of each piece."""
    return [(event.text, event.segment) for event in collected.events if isinstance(event, TextDelta)]


def test_a_str_comes_word_by_word() -> None:
    reply = play("Hello there,  world!\n")
    assert pieces(reply) == [("Hello", "text"), (" there,", "text"), ("  world!", "text"), ("\n", "text")]
    assert reply.end.finish_reason == "stop"
    assert reply.end.usage.completion_tokens == 4


def test_chunks_come_exactly_as_given() -> None:
    assert pieces(play(FakeReply(chunks=["Hel", "lo wor", "ld"]))) == [
        ("Hel", "text"),
        ("lo wor", "text"),
        ("ld", "text"),
    ]


def test_an_empty_reply_ends_without_text() -> None:
    reply = play("")
    assert pieces(reply) == []
    assert reply.end.finish_reason == "stop"
    assert reply.end.usage.completion_tokens == 0


@given(st.text(max_size=80))
def test_any_text_arrives_whole_and_its_tokens_are_its_text(text: str) -> None:
    model = load(FakeBackend([text]))
    reply = collect(model, asking())
    assert reply.text == text
    tokens = reply.end.token_ids.tokens if reply.end.token_ids else ()
    assert model.detokenize(tokens) == text
    assert reply.end.usage.completion_tokens == len(tokens)
    model.close()


def test_a_thought_comes_first_and_is_counted_apart() -> None:
    reply = play(FakeReply("Yes.", thought="Is it so?"))
    assert pieces(reply) == [("Is", "thought"), (" it", "thought"), (" so?", "thought"), ("Yes.", "text")]
    assert (reply.end.usage.completion_tokens, reply.end.usage.thought_tokens) == (4, 3)
    assert reply.text == "Yes."


def test_tool_calls_come_with_the_end() -> None:
    call = ToolCall("weather", {"city": "Rome"}, "1")
    end = play(FakeReply("Let me look.", tool_calls=[call])).end
    assert (end.finish_reason, end.tool_calls) == ("tool_calls", (call,))


def test_tool_calls_are_lost_when_the_reply_is_cut_before_them() -> None:
    end = play(FakeReply("Let me look.", tool_calls=[ToolCall("weather")]), max_tokens=2).end
    assert (end.finish_reason, end.tool_calls) == ("length", ())


def test_a_truncated_reply_ends_with_length_whatever_max_tokens_is() -> None:
    reply = play(FakeReply("Once upon a", truncated=True))
    assert (reply.text, reply.end.finish_reason) == ("Once upon a", "length")


def test_max_tokens_cuts_within_a_chunk() -> None:
    reply = play(FakeReply(chunks=["one two three", " four"]), max_tokens=2)
    assert (reply.text, reply.end.finish_reason, reply.end.usage.completion_tokens) == ("one two", "length", 2)


def test_a_reply_of_exactly_max_tokens_ends_with_length_as_a_real_one_does() -> None:
    assert play("one two", max_tokens=2).end.finish_reason == "length"
    assert play("one two", max_tokens=3).end.finish_reason == "stop"


def test_a_stop_text_across_chunks_ends_the_reply_and_is_not_remembered_as_tokens() -> None:
    reply = play(FakeReply(chunks=["a EN", "D b"]), stop="END")
    assert (reply.text, reply.end.finish_reason) == ("a ", "stop")
    assert reply.end.token_ids is None


def test_a_stop_text_is_looked_for_in_thoughts_and_does_not_reach_over_into_the_text() -> None:
    assert play(FakeReply("b c", thought="a"), stop="ab").text == "b c"
    reply = play(FakeReply("text", thought="so END it"), stop="END")
    assert (reply.text, reply.end.finish_reason) == ("", "stop")


def test_the_context_window_ends_a_reply_with_length() -> None:
    model = load(FakeBackend(["word " * 100]), ModelConfig(n_ctx=24))
    end = collect(model, asking()).end
    assert end.finish_reason == "length"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == 24


def test_a_prompt_beyond_the_context_window_is_an_error_with_both_counts() -> None:
    model = load(FakeBackend(["never said"]), ModelConfig(n_ctx=32))
    end = collect(model, asking("word " * 50)).end
    assert isinstance(end.error, ContextOverflowError)
    assert (end.error.context_tokens, end.usage.prompt_tokens) == (32, end.error.prompt_tokens)
    assert end.error.prompt_tokens == len(model.render([Message.user("word " * 50)]).tokens)


def test_an_exception_in_the_script_ends_its_request_only() -> None:
    model = load(FakeBackend([LocalLLMError("mine"), KeyError("other"), "fine"]))
    first, second, third = (collect(model, asking()).end for _ in range(3))
    assert type(first.error) is LocalLLMError
    assert isinstance(second.error, BackendError)
    assert isinstance(second.error.__cause__, KeyError)
    assert third.finish_reason == "stop"


@pytest.mark.parametrize(("error_at", "text"), [(0, ""), (1, "one"), (2, "one two"), (None, "one two three")])
def test_an_error_comes_before_the_piece_it_is_set_at(error_at: int | None, text: str) -> None:
    reply = play(FakeReply("one two three", error=ValueError("midway"), error_at=error_at))
    assert (reply.text, reply.end.finish_reason) == (text, "error")
    assert isinstance(reply.end.error, BackendError)


def test_a_crash_ends_all_requests_under_way_and_forgets_the_cache_then_the_model_lives_again() -> None:
    clock = ManualClock()
    backend = FakeBackend(
        ["first", FakeReply("a b", delay_s=1, crash=True, error_at=1), "never", "never", "back"], clock=clock
    )
    model = load(backend)
    collect(model, asking())
    logs = [EventLog() for _ in range(3)]
    for log in logs:
        log.start(model, asking())
    clock.wait_until_blocked()
    clock.advance(2)
    ends = [log.wait() for log in logs]
    assert [type(end.error) for end in ends] == [BackendError] * 3
    assert len({id(end.error) for end in ends}) == 3
    assert [log.text for log in logs] == ["a", "", ""]
    reply = collect(model, asking())
    assert (reply.text, reply.end.usage.cached_tokens) == ("back", 0)


def test_when_the_script_runs_out_the_error_says_how_long_it_was_and_what_was_asked() -> None:
    backend = FakeBackend(["one", "two"])
    model = load(backend)
    collect(model, asking())
    collect(model, asking())
    error = collect(model, asking("What now?")).end.error
    assert isinstance(error, ScriptError)
    assert "2 replies" in error.message
    assert "What now?" in error.message
    assert len(backend.requests) == 3


def test_requests_are_recorded_as_they_came_and_preloads_take_nothing_from_the_script() -> None:
    backend = FakeBackend(["one", "two"])
    model = load(backend)
    first, second = asking("a", temperature=0.5), asking("b")
    collect(model, first)
    preload = evolve(asking("later"), purpose="preload")
    assert collect(model, preload).end.finish_reason == "length"
    collect(model, second)
    assert backend.requests == (first, second)


def test_a_script_may_be_infinite_or_decide_by_what_it_is_asked() -> None:
    assert collect(load(FakeBackend(itertools.repeat("ok"))), asking()).text == "ok"

    def parrot() -> Iterator[str]:
        while True:
            yield backend.requests[-1].messages[-1].content.upper()

    backend = FakeBackend(parrot())
    model = load(backend)
    assert [collect(model, asking(word)).text for word in ("a", "b")] == ["A", "B"]


def test_a_script_that_raises_or_brings_up_something_else_ends_that_request() -> None:
    def script() -> Iterator[str]:
        yield cast("str", 5)
        raise ZeroDivisionError

    model = load(FakeBackend(script()))
    errors = [collect(model, asking()).end.error for _ in range(3)]
    assert [type(error) for error in errors] == [InvalidOptionError, BackendError, ScriptError]


@pytest.mark.parametrize(
    ("script", "says"), [("Hello", "iterable"), (b"x", "iterable"), ({"a": 1}, "iterable"), (3, "iterable"), ([3], "3")]
)
def test_a_script_of_the_wrong_type_is_refused_at_once(script: object, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        FakeBackend(cast("list[str]", script))


def test_an_exception_class_in_the_script_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="ValueError"):
        FakeBackend(cast("list[str]", [ValueError]))


@pytest.mark.parametrize(
    "fields",
    [
        {"text": "a", "chunks": ["b"]},
        {"chunks": "ab"},
        {"chunks": ["a", ""]},
        {"chunks": 3},
        {"delay_s": -1.0},
        {"delay_s": None},
        {"delay_s": float("nan")},
        {"first_delay_s": True},
        {"tool_calls": ["call"]},
        {"tool_calls": 3},
        {"truncated": 1},
        {"error": "boom"},
        {"error": ValueError},
        {"crash": True, "error": ValueError()},
        {"truncated": True, "tool_calls": [ToolCall("x")]},
        {"text": "one two", "error": ValueError(), "error_at": 3},
        {"error": ValueError(), "error_at": -1},
        {"error": ValueError(), "error_at": True},
        {"error_at": 0},
    ],
    ids=str,
)
def test_a_reply_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidOptionError):
        FakeReply(**fields)  # type: ignore[arg-type]  # wrong on purpose


def test_text_that_no_model_can_say_is_refused() -> None:
    with pytest.raises(InvalidPromptError, match="surrogate"):
        FakeReply("\ud800")
    with pytest.raises(InvalidPromptError, match="surrogate"):
        FakeBackend(["\ud800"])
    with pytest.raises(InvalidPromptError, match="surrogate"):
        FakeReply(chunks=["\ud800"])
    with pytest.raises(PromptTypeError, match="text"):
        FakeReply(cast("str", None))
    with pytest.raises(PromptTypeError, match="thought"):
        FakeReply(thought=cast("str", 3))


def test_a_second_turn_finds_the_first_in_the_cache_down_to_its_tokens() -> None:
    model = load(FakeBackend(["Hello to you", "Fine"]))
    first = collect(model, asking("Hi"))
    said = Message("assistant", first.text, token_ids=first.end.token_ids)
    second = GenerateRequest(messages=(Message.user("Hi"), said, Message.user("How are you?")))
    usage = collect(model, second).end.usage
    before = first.end.usage
    assert usage.cached_tokens == before.prompt_tokens + before.completion_tokens
    assert usage.prompt_tokens == len(model.render(second.messages).tokens)


def test_the_last_token_of_a_prompt_is_never_cached_for_it_gives_the_first_of_the_reply() -> None:
    model = load(FakeBackend(["a", "b"]))
    collect(model, asking())
    usage = collect(model, asking()).end.usage
    assert usage.cached_tokens == usage.prompt_tokens - 1


def test_a_preload_fills_the_cache() -> None:
    model = load(FakeBackend(["a"]))
    preload = collect(model, evolve(asking(), purpose="preload")).end.usage
    usage = collect(model, asking()).end.usage
    assert preload.completion_tokens == preload.cached_tokens == 0
    assert usage.cached_tokens == preload.prompt_tokens


def test_generated_tokens_of_another_load_are_read_as_text() -> None:
    backend = FakeBackend(["strange words", "x"])
    first, second = load(backend), load(backend)
    said = collect(first, asking()).end.token_ids
    assert said is not None
    rendered = second.render([Message.user("Hi"), Message("assistant", "strange words", token_ids=said)])
    assert second.detokenize(rendered.tokens) == rendered.text
    edited = first.render([Message("assistant", "edited since", token_ids=said)])
    assert first.detokenize(edited.tokens) == edited.text


def test_delays_go_by_the_injected_clock_each_piece_at_its_own_moment() -> None:
    clock = ManualClock()
    model = load(FakeBackend([FakeReply("one two three", delay_s=2, first_delay_s=5)], clock=clock))
    log = EventLog()
    log.start(model, asking())
    clock.wait_until_blocked()
    assert log.text == ""
    clock.advance(5)
    clock.wait_until_blocked()
    assert log.text == "one"
    clock.advance(4)
    end = log.wait()
    assert log.text == "one two three"
    assert (end.timings.first_token_s, end.timings.decode_s, end.timings.tokens_per_s) == (5, 4, 0.5)


def test_a_delay_of_a_reply_without_pieces_comes_before_its_end() -> None:
    clock = ManualClock()
    model = load(FakeBackend([FakeReply(delay_s=3)], clock=clock))
    log = EventLog()
    log.start(model, asking())
    clock.wait_until_blocked()
    assert log.end is None
    clock.advance(3)
    assert log.wait().finish_reason == "stop"


def test_what_is_due_before_the_time_out_is_delivered_even_if_the_clock_jumps_past_both() -> None:
    clock = ManualClock()
    model = load(FakeBackend([FakeReply("a b c d", delay_s=2)], clock=clock))
    log = EventLog()
    log.start(model, asking(timeout_s=5))
    clock.wait_until_blocked()
    clock.advance(60)
    assert log.wait().finish_reason == "timeout"
    assert log.text == "a b"


def test_a_waiting_request_times_out_while_another_runs() -> None:
    clock = ManualClock()
    model = load(FakeBackend([FakeReply("slow", delay_s=100), "never"], clock=clock))
    running, waiting = EventLog(), EventLog()
    running.start(model, asking())
    waiting.start(model, asking(timeout_s=10))
    clock.wait_until_blocked()
    clock.advance(10)
    end = waiting.wait()
    assert (end.finish_reason, end.timings.queue_s, end.usage.prompt_tokens) == ("timeout", 10, 0)
    clock.advance(90)
    assert running.wait().finish_reason == "stop"


def test_a_reply_that_waits_for_the_clock_is_cancelled_at_once() -> None:
    clock = ManualClock()
    model = load(FakeBackend([FakeReply("never", delay_s=1000)], clock=clock))
    log = EventLog()
    cancel = log.start(model, asking())
    clock.wait_until_blocked()
    cancel()
    assert log.wait().finish_reason == "cancelled"
    assert clock.now() == 0


def test_parallel_replies_come_in_turn_and_waiting_ones_in_the_order_of_their_arrival() -> None:
    clock = ManualClock()
    replies = [FakeReply(f"{name}1 {name}2", first_delay_s=1) for name in "abc"]
    model = load(FakeBackend(replies, clock=clock), ModelConfig(n_parallel=2))
    heard: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, TextDelta):
            heard.append(event.text.strip())

    logs = [EventLog(hear) for _ in replies]
    for log in logs:
        log.start(model, asking())
    clock.wait_until_blocked()
    assert (model.stats().running, model.stats().waiting) == (2, 1)
    clock.advance(1)
    logs[1].wait()
    clock.wait_until_blocked()
    clock.advance(1)
    logs[2].wait()
    assert heard == ["a1", "b1", "a2", "b2", "c1", "c2"]


def test_one_request_more_than_may_wait_gets_a_queue_full_error_and_takes_nothing_from_the_script() -> None:
    clock = ManualClock()
    backend = FakeBackend([FakeReply("a", delay_s=1), "b", "c"], clock=clock)
    model = load(backend, ModelConfig(max_queue=1))
    logs = [EventLog() for _ in range(3)]
    for log in logs:
        log.start(model, asking())
    error = logs[2].wait().error
    assert isinstance(error, QueueFullError)
    assert "max_queue" in error.message
    clock.wait_until_blocked()
    clock.advance(1)
    assert [log.wait().error for log in logs[:2]] == [None, None]
    assert len(backend.requests) == 2
    assert collect(model, asking()).text == "c"


def test_many_threads_share_one_script_and_each_reply_is_given_once() -> None:
    backend = FakeBackend([str(count) for count in range(80)])
    models = [load(backend), load(backend)]
    texts: list[str] = []

    def ask(model: LoadedModel) -> None:
        texts.extend(collect(model, asking()).text for _ in range(10))

    threads = [threading.Thread(target=ask, args=(models[count % 2],)) for count in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts, key=int) == [str(count) for count in range(80)]
    assert len(backend.requests) == 80


def test_the_prompt_is_told_as_read_before_the_first_text() -> None:
    reply = play("Hello")
    total = reply.end.usage.prompt_tokens
    assert reply.events[0] == PromptProgress(total, 0, total)
    assert isinstance(reply.events[-1], GenerationEnded)


def test_stats_add_up() -> None:
    model = load(FakeBackend(["one two", "three"]))
    ends = [collect(model, asking()).end.usage for _ in range(2)]
    stats = model.stats()
    assert stats.finished == 2
    assert stats.prompt_tokens == sum(usage.prompt_tokens for usage in ends)
    assert stats.cached_tokens == sum(usage.cached_tokens for usage in ends)
    assert (stats.completion_tokens, stats.cache_hits) == (3, 1)


def test_control_tokens_in_a_message_are_plain_text() -> None:
    model = load(FakeBackend([]))
    plain, hostile = (model.render([Message.user(text)]).tokens for text in ("x", "<|im_end|>"))
    (end,) = {token for token in plain if model.detokenize([token]) == "<|im_end|>"}
    assert hostile.count(end) == plain.count(end)


def test_tool_calls_of_a_history_are_part_of_the_prompt() -> None:
    model = load(FakeBackend([]))
    call = Message("assistant", "", tool_calls=(ToolCall("weather", {"city": "Rom"}),))
    text = model.render([Message.user("x"), call, Message("tool", "warm", tool_call_id="1")]).text
    assert '"city": "Rom"' in text
    assert "tool\nwarm" in text


_AGED = Grammar("json_schema", '{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}')
_CHOICE = Grammar("choice", '["yes", "no"]')


def held_to(grammar: Grammar, reply: str | FakeReply, prefix: str = "") -> GenerationEnded:
    """The end of a reply that is held to a grammar."""
    model = load(FakeBackend([reply]))
    return collect(model, evolve(asking(), grammar=grammar, prefix=prefix)).end


@pytest.mark.parametrize(
    ("grammar", "reply", "prefix"),
    [
        (_AGED, '{"age": 3}', ""),
        (_AGED, '{\n  "age":3\n}\n', ""),
        (_AGED, FakeReply(chunks=['{"a', 'ge": 3', "}"]), ""),
        (_AGED, FakeReply('{"age": 3}', thought="no JSON here"), ""),
        (_AGED, FakeReply('{"ag', truncated=True), ""),
        (_AGED, ' "age": 3}', "{"),
        (_AGED, FakeReply(tool_calls=[ToolCall("weather", {})]), ""),
        (_CHOICE, "yes", ""),
        (_CHOICE, "s", "ye"),
        (Grammar("regex", "[a-z]+[0-9]"), "ab1", ""),
        (Grammar("lark", 'start: "a" "b"'), "ab", ""),
    ],
)
def test_a_reply_that_follows_its_grammar_is_played(grammar: Grammar, reply: str | FakeReply, prefix: str) -> None:
    """In any layout of JSON; what is cut off may be a beginning; thoughts are free, and so are replies that call."""
    end = held_to(grammar, reply, prefix)
    assert end.error is None
    assert end.finish_reason in ("stop", "length", "tool_calls")


@pytest.mark.parametrize(
    ("grammar", "reply", "where"),
    [
        (_AGED, '{"age": "3"}', "json_schema that was asked for at index 8, before"),
        (_AGED, '{"age": 3', "at index 9, where the text ends"),
        (_AGED, "Here you are: {}", "at index 0, before"),
        (_AGED, FakeReply('{"x', truncated=True), "at index"),
        (_CHOICE, "maybe", "choice that was asked for at index 0"),
        (Grammar("regex", "[a-z]+[0-9]"), "ab12", "regex that was asked for at index 3"),
    ],
)
def test_a_reply_that_no_grammar_would_let_through_is_a_mistake_in_the_script(
    grammar: Grammar, reply: str | FakeReply, where: str
) -> None:
    """It ends with ScriptError, which says where the text departs; nothing of it is played."""
    if grammar is _AGED and isinstance(reply, FakeReply):
        grammar = Grammar("json_schema", _AGED.source[:-1] + ', "additionalProperties": false}')
    end = held_to(grammar, reply)
    assert isinstance(end.error, ScriptError)
    assert where in str(end.error)
    assert end.usage.completion_tokens == 0


def test_a_grammar_that_cannot_be_used_ends_the_request() -> None:
    """With the error that says why, as a model would."""
    end = held_to(Grammar("regex", "("), "x")
    assert isinstance(end.error, InvalidOptionError)

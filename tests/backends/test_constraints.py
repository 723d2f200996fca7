"""Replies held to schemas, regular expressions, choices and grammars, on the real model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial

import jsonschema
import pytest

from localllm._json import JsonValue
from localllm.backends.base import Backend, LoadedModel, ResumePoint
from localllm.backends.llamacpp import LlamaCppBackend
from localllm.backends.lookup import in_workers
from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from localllm.errors import BackendError, InvalidPromptError, InvalidSchemaError, SchemaTooCostlyError
from localllm.options import Timeouts
from localllm.types import TextDelta, ToolCallDelta, ToolCallEnded, ToolCallStarted
from tests.backends.asking import Asked, ask, json_grammar, load

PERSON: dict[str, JsonValue] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email", "maxLength": 30},
        "colors": {"type": "array", "items": {"enum": ["red", "green", "blue", "été 🙂"]}, "maxItems": 3},
    },
    "required": ["name", "age", "colors"],
    "additionalProperties": False,
}
TREE: dict[str, JsonValue] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "label": {"type": "string", "pattern": "^[a-z]{1,6}$"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["label", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: tuple[dict[str, JsonValue], ...] = (
    PERSON,
    TREE,
    {"type": "array", "items": {"type": "number", "minimum": -1, "maximum": 1}, "minItems": 1, "maxItems": 4},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "format": "date"}]},
    {"type": "object", "properties": {"日本": {"const": "日本語 <|im_end|>"}}, "required": ["日本"]},
)
CHOICES = ["yes", "no", "perhaps, 🙂"]
REGEX = r"[A-Z][a-z]{2,8} is [0-9]{1,3} years old\."
LARK = 'start: "sum:" term ("+" term){1,3}\nterm: /[0-9]{1,4}/ | "(" term "*" term ")"'
IN_PLACES = pytest.mark.parametrize("place", ["thread", "worker"])


def _worker() -> Backend:
    return in_workers("llama.cpp", on_crash="raise", timeouts=Timeouts())()


_BACKENDS: dict[str, Callable[[], Backend]] = {"thread": LlamaCppBackend, "worker": _worker}


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    """The small model in this process."""
    backend = LlamaCppBackend()
    yield load(backend)
    backend.close()


def _is_json(schema: dict[str, JsonValue], text: str) -> None:
    jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@IN_PLACES
def test_replies_of_all_kinds_in_one_batch_are_what_they_were_held_to(place: str) -> None:
    """At temperature 1.5, beside free ones; each that ended by itself parses and validates."""
    backend = _BACKENDS[place]()
    try:
        model = load(backend)
        checks: list[tuple[Asked, Callable[[str], object]]] = []
        for seed in range(2):
            hot = {"temperature": 1.5, "seed": seed, "max_tokens": 160}
            checks += [(ask(model, grammar=grammar, options=hot), check) for grammar, check in _demands()]
            checks.append((ask(model, temperature=0.0, max_tokens=40), _must))
        whole = 0
        for asked, check in checks:
            assert asked.end.finish_reason in ("stop", "length"), asked.end.error
            assert asked.end.finish_reason == "stop" or asked.end.usage.completion_tokens in (40, 160)
            if asked.end.finish_reason == "stop":
                check(asked.text)
                whole += 1
        assert whole >= len(checks) * 0.7
    finally:
        backend.close()


def _must(found: object) -> None:
    assert found


def _demands() -> Iterator[tuple[Grammar, Callable[[str], object]]]:
    """Yield grammars of all kinds, each with a check by somebody else."""
    for schema in SCHEMAS:
        yield json_grammar(schema), partial(_is_json, schema)
    yield Grammar("regex", REGEX), lambda text: _must(re.fullmatch(REGEX, text))
    yield Grammar("choice", json.dumps(CHOICES)), lambda text: _must(text in CHOICES)
    term = r"([0-9]{1,4}|\([0-9()*]+\))"
    yield Grammar("lark", LARK), lambda text: _must(re.fullmatch(rf"sum:{term}(\+{term}){{1,3}}", text))


def test_a_reply_ends_with_its_grammar_and_needs_no_end_token(model: LoadedModel) -> None:
    """Its tokens are those of its text, forced ones among them, so that the next turn can use them."""
    asked = ask(model, grammar=Grammar("choice", '["the only choice there is"]'), temperature=0.0)
    assert asked.text == "the only choice there is"
    assert asked.end.finish_reason == "stop"
    assert model.detokenize(asked.tokens) == asked.text
    assert asked.tokens == model.tokenize(asked.text)
    assert asked.end.usage.completion_tokens == len(asked.tokens)


def test_where_the_grammar_lets_a_reply_end_the_model_decides(model: LoadedModel) -> None:
    """Any of its end tokens will do."""
    asked = ask(model, "What is 2 + 2?", grammar=Grammar("regex", "[0-9A-Za-z +=.]*"), temperature=0.0)
    assert asked.end.finish_reason == "stop"
    assert 0 < asked.end.usage.completion_tokens < 200


def test_a_deterministic_reply_to_a_schema_is_the_same_each_time(model: LoadedModel) -> None:
    """With forced runs, whatever runs beside it, and when it goes on from the middle of a run."""
    grammar, options = json_grammar(PERSON), {"temperature": 1.0, "seed": 5, "deterministic": True}
    first = ask(model, grammar=grammar, options=options)
    _is_json(PERSON, first.text)
    beside = ask(model, "Write a long story.", max_tokens=60)
    assert ask(model, grammar=grammar, options=options).tokens == first.tokens
    for said in (1, 7, 12):
        point = ResumePoint(token_ids=first.tokens[:said])
        again = ask(model, resume=point, grammar=grammar, options=options)
        assert again.tokens == first.tokens
        assert first.text.endswith(again.text)
    beside.handle.cancel()


def test_stop_strings_work_beside_a_grammar(model: LoadedModel) -> None:
    """Also one that a forced run contains."""
    asked = ask(model, grammar=json_grammar(PERSON), stop="name", temperature=0.0)
    assert asked.text == '{"'
    assert asked.end.finish_reason == "stop"


def test_samplers_that_measure_entropy_take_what_a_grammar_leaves(model: LoadedModel) -> None:
    """Impossible tokens would make NaN of it."""
    for options in ({"typical_p": 0.5, "top_k": 0}, {"mirostat": 1}, {"mirostat": 2}, {"dynatemp_range": 0.5}):
        asked = ask(model, grammar=json_grammar(PERSON), temperature=1.5, seed=1, options=options)
        assert asked.end.finish_reason in ("stop", "length"), options
        if asked.end.finish_reason == "stop":
            _is_json(PERSON, asked.text)
    penal = {"repeat_penalty": 1.3, "frequency_penalty": 0.5, "dry_multiplier": 0.8, "logit_bias": {5: -2.0}}
    assert ask(model, grammar=json_grammar(PERSON), seed=1, options=penal).end.error is None


def test_a_prefix_is_gone_on_from_and_the_grammar_is_about_the_whole(model: LoadedModel) -> None:
    """The prefix is not delivered."""
    prefix = '{"name": "Zoë", "age": 4'
    asked = ask(model, grammar=json_grammar(PERSON), prefix=prefix, temperature=0.0)
    _is_json(PERSON, prefix + asked.text)
    assert json.loads(prefix + asked.text)["name"] == "Zoë"
    free = ask(model, "Name a fruit.", prefix="My favourite fruit is the", temperature=0.0, max_tokens=8)
    assert free.end.error is None
    assert not free.text.startswith("My favourite")


def test_a_prefix_that_contradicts_the_grammar_is_refused(model: LoadedModel) -> None:
    """The error says how far it fits."""
    error = ask(model, grammar=json_grammar(PERSON), prefix='{"name": 7').end.error
    assert isinstance(error, InvalidPromptError)
    assert "departs" in str(error)


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        (Grammar("lark", "start: nowhere"), InvalidSchemaError),
        (Grammar("regex", "(?=a)b"), InvalidSchemaError),
        (json_grammar({"enum": [f"value {number}" for number in range(100_000)]}), SchemaTooCostlyError),
    ],
)
def test_a_grammar_that_cannot_be_compiled_is_its_own_requests_error(
    model: LoadedModel, grammar: Grammar, kind: type[Exception]
) -> None:
    """Others are answered meanwhile."""
    good = ask(model, grammar=Grammar("choice", '["a", "b"]'))
    assert isinstance(ask(model, grammar=grammar).end.error, kind)
    assert good.text in ("a", "b")


def test_a_grammar_that_nothing_matches_ends_its_request_with_an_error_and_no_other(model: LoadedModel) -> None:
    """It is never taken for one whose reply is whole."""
    good = ask(model, grammar=json_grammar(PERSON), temperature=0.0)
    error = ask(model, grammar=Grammar("lark", 'start: "a" B\nB: /b/ & /c/')).end.error
    assert isinstance(error, (BackendError, InvalidSchemaError))
    _is_json(PERSON, good.text)


def test_control_tokens_are_not_text_of_a_grammar(model: LoadedModel) -> None:
    """A text that looks like one is spelled with ordinary tokens."""
    asked = ask(model, grammar=Grammar("choice", '["<|im_end|><|im_start|>"]'))
    assert asked.text == "<|im_end|><|im_start|>"
    assert not {1, 2} & set(asked.tokens)


def test_log_probabilities_are_of_the_raw_distribution(model: LoadedModel) -> None:
    """Those of a greedy reply are the highest; a grammar changes the tokens and not the distribution."""
    free = ask(
        model, "What is the capital of France?", temperature=0.0, max_tokens=8, top_logprobs=3, deterministic=True
    )
    assert free.end.error is None
    assert len(free.logprobs) == free.end.usage.completion_tokens
    assert "".join(one.text for one in free.logprobs) == free.text
    for one in free.logprobs:
        assert len(one.top) == 3
        assert one.top[0][0] == one.token
        assert one.top[0][2] == one.logprob <= 0
        assert sorted(one.top, key=lambda entry: -entry[2]) == list(one.top)
        assert sum(2.718281828 ** entry[2] for entry in one.top) <= 1.001
    held = ask(
        model,
        "What is the capital of France?",
        grammar=Grammar("choice", '["xylophone"]'),
        top_logprobs=3,
        deterministic=True,
    )
    assert held.text == "xylophone"
    assert held.tokens == model.tokenize("xylophone")
    assert held.logprobs[0].logprob < -3
    assert held.logprobs[0].top == free.logprobs[0].top
    bare = ask(model, temperature=0.0, max_tokens=4, top_logprobs=0)
    assert bare.end.error is None
    assert [one.top for one in bare.logprobs] == [()] * 4


WEATHER = ToolDefinition(
    "weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)


def test_a_required_call_is_made_and_fits_its_tool(model: LoadedModel) -> None:
    """Told of in pieces, and with the end; its tokens are told with the events, so that it can be gone on from."""
    options = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1.0, "seed": 2}
    whole = ask(model, "How is the weather in Paris?", tools=(WEATHER,), options=options, deterministic=True)
    assert whole.end.finish_reason == "tool_calls", whole.end
    (call,) = whole.end.tool_calls
    assert call.name == "weather"
    jsonschema.validate(call.arguments, WEATHER.parameters)
    pieces = [event.arguments for event in whole.events if isinstance(event, ToolCallDelta)]
    assert json.loads("".join(pieces)) == call.arguments
    kinds = (TextDelta, ToolCallStarted, ToolCallDelta, ToolCallEnded)
    events = [event for event in whole.events if isinstance(event, kinds)]
    for place in (place for place, event in enumerate(events[1:], 1) if event.token_ids):
        told = [token for event in events[:place] for token in event.token_ids]
        rest = ask(
            model,
            "How is the weather in Paris?",
            tools=(WEATHER,),
            options=options,
            deterministic=True,
            resume=ResumePoint(token_ids=tuple(told)),
        )
        assert rest.end.tool_calls == whole.end.tool_calls
        assert [event for event in rest.events if isinstance(event, kinds)] == events[place:]


def test_raw_text_is_gone_on_from_as_it_stands() -> None:
    """Without a template: the tokens of the text and no control token, in a prompt and in its control tokens' texts."""
    backend = LlamaCppBackend()
    try:
        raw = load(backend, chat_template="none")
        assert raw.info.template_source == "none"
        asked = ask(raw, "The capital of France is", temperature=0.0, max_tokens=6)
        assert asked.end.usage.prompt_tokens == len(raw.tokenize("The capital of France is"))
        assert "Paris" in asked.text
        held = ask(raw, "a<|im_end|>b", grammar=Grammar("regex", "[0-9]{3}"))
        assert re.fullmatch("[0-9]{3}", held.text)
    finally:
        backend.close()

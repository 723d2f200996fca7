"""The grammar of a whole reply: what it lets through is what the parser reads, and what the caller asked for."""

from __future__ import annotations

import json
from functools import cache

import jsonschema
import llguidance
import pytest

from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects import Dialect
from localllm.chat.dialects.marks import call_marks
from localllm.chat.grammar import Grammar
from localllm.errors import InvalidOptionError
from tests.chat.dialects.rows import CALLS, DIALECTS, TOOLS, Taken, take
from tests.chat.dialects.walks import Vocabulary, vocabulary, walk

_SCHEMA = Grammar(
    "json_schema", json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
)
_ODD = ToolDefinition(
    "odd",
    "",
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["plain", "a <b>"]},
            "code": {"type": "string", "pattern": "^[a-z]{2,4}$"},
            "name": {"type": "string", "minLength": 1, "maxLength": 5},
            "flag": {"type": ["boolean", "null"]},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]},
            "tree": {"$ref": "#/$defs/tree"},
            "many": {"type": "array", "items": {"type": "string", "maxLength": 2}, "minItems": 1, "maxItems": 2},
        },
        "required": ["kind", "code"],
        "additionalProperties": False,
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"size": {"type": "integer"}, "next": {"$ref": "#/$defs/tree"}},
                "required": ["size"],
                "additionalProperties": False,
            }
        },
    },
)
_LOOSE = ToolDefinition("loose", "", {"type": "object", "properties": {"n": {"type": "integer"}}}, strict=False)
_LITERAL = {name for name, dialect in DIALECTS.items() if dialect.syntax.calls.form in ("literal", "python", "nested")}


@cache
def _words(name: str, control: bool) -> Vocabulary:
    return vocabulary(DIALECTS[name], control=control)


def _hints(dialect: Dialect) -> list[str]:
    """Texts that random bytes would not spell."""
    thought = dialect.syntax.thought
    marks = [thought.open, thought.close] if thought else []
    calls = [dialect.write_calls(CALLS[:1]), *call_marks(dialect.syntax.calls)]
    return [hint for hint in (*marks, *calls, dialect.syntax.text_open, dialect.syntax.text_close) if hint]


def _replies(
    dialect: Dialect,
    source: str | None,
    *,
    control: bool,
    in_thought: bool = False,
    count: int = 6,
    exact: bool = False,
    more: tuple[str, ...] = (),
) -> list[tuple[str, Taken]]:
    """Random replies of a grammar, and what the parser makes of them; `more` are further hints."""
    assert source is not None
    words = _words(dialect.name, control)
    found = []
    for seed in range(count):
        text = walk(source, words, [*_hints(dialect), *more], seed)
        if text is not None:
            parser = dialect.parser((*TOOLS, _ODD, _LOOSE), in_thought=in_thought, exact=exact)
            found.append((text, take(parser, text)))
    return found


def _check(taken: Taken, tools: tuple[ToolDefinition, ...]) -> None:
    """Hold every call to its tool's schema."""
    schemas = {tool.name: tool.parameters for tool in tools}
    for name, arguments in taken.calls:
        jsonschema.validate(arguments, schemas[name])


@pytest.mark.parametrize("control", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", DIALECTS)
def test_required_calls_are_made_and_fit_their_schemas(name: str, control: bool) -> None:
    """Nothing but calls, after a thought or not, with marks as control tokens or as text."""
    dialect = DIALECTS[name]
    special = _words(name, control).special
    whole = 0
    for in_thought in {False, dialect.syntax.thought is not None}:
        source = dialect.grammar(None, TOOLS, tool_choice="required", in_thought=in_thought, special=special)
        for text, taken in _replies(dialect, source, control=control, in_thought=in_thought):
            assert taken.calls, text
            assert taken.text == "", text
            _check(taken, TOOLS)
            whole += 1
    assert whole >= 4


@pytest.mark.parametrize("name", DIALECTS)
def test_schemas_of_many_kinds_are_held_to(name: str) -> None:
    """Choices, patterns, lengths, unions, recursion, lists; also where arguments are not written as JSON."""
    dialect = DIALECTS[name]
    source = dialect.grammar(None, [_ODD], tool_choice="odd", special=_words(name, True).special)
    replies = _replies(dialect, source, control=True, count=10)
    assert len(replies) >= 5
    for text, taken in replies:
        assert taken.calls, text
        _check(taken, (_ODD,))


@pytest.mark.parametrize("control", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_call_that_has_begun_is_held_to_its_form(name: str, control: bool) -> None:
    """Text is free, but no mark of a call stands in it: what begins as a call is one."""
    dialect = DIALECTS[name]
    source = dialect.grammar(None, TOOLS, special=_words(name, control).special)
    spoken = called = 0
    for text, taken in _replies(dialect, source, control=control, count=60 if dialect.syntax.text_close else 24):
        _check(taken, TOOLS)
        spoken, called = spoken + bool(taken.text), called + bool(taken.calls)
        if not dialect.syntax.calls.start_only and not dialect.syntax.channels:
            assert not any(mark in taken.text for mark in call_marks(dialect.syntax.calls)), text
    assert spoken
    assert called


@pytest.mark.parametrize("name", ["hermes", "devstral", "deepseek-v3.1", "kimi-k2", "qwen3-coder", "gemma-4", "lfm2"])
def test_one_call_if_not_several(name: str) -> None:
    """`parallel=False` has exactly one."""
    dialect = DIALECTS[name]
    special = _words(name, True).special
    for parallel in (False, True):
        source = dialect.grammar(None, TOOLS, tool_choice="required", parallel=parallel, special=special)
        counts = {len(taken.calls) for _, taken in _replies(dialect, source, control=True, count=12)}
        assert counts == {1} if not parallel else max(counts) > 1


@pytest.mark.parametrize("control", [True, False], ids=["tokens", "text"])
@pytest.mark.parametrize("name", DIALECTS)
def test_text_of_a_form_stands_after_a_thought(name: str, control: bool) -> None:
    """The thought is free; the text is exactly the grammar's."""
    dialect = DIALECTS[name]
    special = _words(name, control).special
    for in_thought in {False, dialect.syntax.thought is not None}:
        source = dialect.grammar(_SCHEMA, (), in_thought=in_thought, special=special)
        replies = _replies(dialect, source, control=control, in_thought=in_thought, exact=True)
        assert replies
        for _, taken in replies:
            assert isinstance(json.loads(taken.text)["a"], int)


def test_text_of_a_form_keeps_its_own_white_space() -> None:
    """After a thought the family's line breaks are left out, and no more."""
    for name in ("hermes", "deepseek-v3.1", "seed-oss"):
        dialect = DIALECTS[name]
        source = dialect.grammar(Grammar("choice", json.dumps(["\n\n yes", "\nno"])), (), in_thought=True)
        texts = {
            taken.text for _, taken in _replies(dialect, source, control=False, in_thought=True, count=12, exact=True)
        }
        assert texts == {"\n\n yes", "\nno"}


@pytest.mark.parametrize("name", ["hermes", "gpt-oss", "llama-3", "command-r7b", "qwen3-coder", "mistral"])
def test_text_of_a_form_beside_tools(name: str) -> None:
    """The reply is the text, or calls."""
    dialect = DIALECTS[name]
    source = dialect.grammar(_SCHEMA, (*TOOLS, _ODD), special=_words(name, True).special)
    kinds = set()
    for _, taken in _replies(dialect, source, control=True, count=24, exact=True, more=('{"a": 1}',)):
        kinds.add(bool(taken.calls))
        _check(taken, (*TOOLS, _ODD))
        assert taken.calls or json.loads(taken.text).keys() >= {"a"}
        assert not (taken.calls and taken.text)
    assert kinds == {True, False}


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(yes|no)!"),
        Grammar("choice", '["yes!", "no!"]'),
        Grammar("lark", 'start: answer "!"\nanswer: "yes" | "no"'),
    ],
    ids=lambda grammar: str(grammar.kind),
)
def test_every_kind_of_grammar_goes_after_a_thought(grammar: Grammar) -> None:
    """Also one with rules of its own."""
    dialect = DIALECTS["generic"]
    source = dialect.grammar(grammar, (), in_thought=True)
    texts = {taken.text for _, taken in _replies(dialect, source, control=False, in_thought=True, count=12, exact=True)}
    assert texts == {"yes!", "no!"}


def test_a_free_reply_has_no_grammar() -> None:
    """Without tools, without strict ones, or with calls refused."""
    dialect = DIALECTS["hermes"]
    assert dialect.grammar(None, ()) is None
    assert dialect.grammar(None, TOOLS, tool_choice="none") is None
    assert dialect.grammar(None, [_LOOSE]) is None
    assert dialect.grammar(None, [_LOOSE, *TOOLS]) is not None
    assert dialect.grammar(_SCHEMA, TOOLS, tool_choice="none") == dialect.grammar(_SCHEMA, ())


def test_a_tool_that_is_not_strict_takes_any_object() -> None:
    """Its calls are made all the same."""
    dialect = DIALECTS["hermes"]
    source = dialect.grammar(None, [_LOOSE], tool_choice="loose")
    replies = _replies(dialect, source, control=False, count=12)
    assert any(
        "n" not in arguments or not isinstance(arguments["n"], int) for _, t in replies for _, arguments in t.calls
    )


def test_a_tool_choice_without_its_tool_is_refused() -> None:
    """With the names that there are."""
    dialect = DIALECTS["hermes"]
    with pytest.raises(InvalidOptionError, match="one of: get_weather, add, now"):
        dialect.grammar(None, TOOLS, tool_choice="nothing")
    with pytest.raises(InvalidOptionError, match="no tools"):
        dialect.grammar(None, (), tool_choice="required")


@pytest.mark.parametrize("name", DIALECTS)
def test_what_the_family_writes_and_how_it_closes_a_thought_pass(name: str) -> None:
    """The canonical reply, with `close_thought` after the thought, is one of the grammar's."""
    dialect, words = DIALECTS[name], _words(name, True)
    calls = CALLS if dialect.syntax.calls.parallel else CALLS[:1]
    written = dialect.write_calls(calls).removeprefix(dialect.syntax.virtual)
    in_thought = dialect.syntax.thought is not None
    source = dialect.grammar(None, TOOLS, tool_choice="required", in_thought=in_thought, special=words.special)
    closing = dialect.parser(()).close_thought.removesuffix(dialect.syntax.text_open)
    reply = words.tokens_of(("Hm" + closing if in_thought else "") + written)
    matcher = llguidance.LLMatcher(words.tokenizer, source or "", log_level=0)
    assert matcher.consume_tokens(reply), matcher.get_error()
    assert matcher.is_accepting()


def test_grammars_of_hostile_names_are_sound() -> None:
    """Quotes, slashes and marks in the names of tools and of arguments do not get out of their places."""
    name, key = 'a"b\\c/d', 'k"\\/\n>'
    tool = ToolDefinition(name, "", {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]})
    for dialect in DIALECTS.values():
        source = dialect.grammar(None, [tool], tool_choice="required")
        assert source is not None
        assert llguidance.LLMatcher.validate_grammar(source, _words(dialect.name, False).tokenizer) == ""
        auto = dialect.grammar(None, [tool])
        assert auto is not None
        assert llguidance.LLMatcher.validate_grammar(auto, _words(dialect.name, False).tokenizer) == ""

"""Grammars in llguidance's words; texts held against them; options and schemas as grammars."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.chat.grammar import Grammar, GrammarKind
from localllm.errors import InvalidOptionError, InvalidSchemaError, SchemaRegexError, UnsatisfiableSchemaError
from localllm.options import RequestOptions
from localllm.output.compiled import check_grammar, matches
from localllm.output.forms import grammar_of, output_form
from localllm.output.grammars import lark_rule
from tests.output.walks import accepts, walk


@pytest.mark.parametrize(
    ("kind", "source", "right", "wrong"),
    [
        ("regex", "[0-9]{3}-[a-z]+", "123-abc", "12-abc"),
        ("regex", "a/b|c\nd", "c\nd", "c d"),
        ("regex", "^ab$", "ab", "abc"),
        ("regex", "\\d+é\\x41", "12éA", "12eA"),
        ("choice", '["yes", "no", "a\\nb", "\\u007f<|im_end|>"]', "\x7f<|im_end|>", "maybe"),
        ("lark", 'start: "a" b+\nb: "b" | "c"', "abc", "a"),
        ("json_schema", '{"type": "array", "items": {"type": "integer"}}', "[1, 2]", "[1,2]"),
        ("json_schema", "true", "[{}]", "[}"),
    ],
)
def test_each_kind_of_grammar_means_what_it_says(kind: GrammarKind, source: str, right: str, wrong: str) -> None:
    """JSON is generated on one line, with a space after each colon and comma."""
    grammar = Grammar(kind, source)
    check_grammar(grammar)
    assert accepts(grammar, right)
    assert not accepts(grammar, wrong)
    assert matches(grammar, right) is None


def test_grammars_are_rules_of_larger_ones() -> None:
    """Of any kind, side by side, each with its names to itself."""
    rules = [
        lark_rule("a", Grammar("lark", 'start: "x" b\nb: "1"')),
        lark_rule("b", Grammar("lark", 'start: "y" b // }\nb: "2"')),
        lark_rule("c", Grammar("choice", '["p", "q"]')),
        lark_rule("d", Grammar("regex", "[0-9]/[0-9]")),
        lark_rule("e", Grammar("json_schema", '{"const": {"k": "}"}}')),
    ]
    whole = Grammar("lark", "\n".join(["start: a b c d e", *rules]))
    assert accepts(whole, 'x1y2q4/5{"k": "}"}')


@given(texts=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=5, unique=True))
def test_a_choice_is_between_the_very_texts(texts: list[str]) -> None:
    """Whatever they hold: quotes, newlines, control characters, comments."""
    grammar = grammar_of(RequestOptions(choice=texts))
    assert grammar is not None
    for text in texts:
        assert matches(grammar, text) is None
    assert walk(grammar, 1) in texts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": 3}', "at index 9, before '3}'"),
        ('{"nome": "x"}', "at index 3, before 'ome"),
        ('{"name": "é"} x', "at index 13, before ' x'"),
        ('{"name": "é"', "at index 12, where the text ends: the grammar wants"),
        ("", "at index 0, where the text ends: the grammar wants '{'"),
    ],
)
def test_a_departure_is_told_with_its_index(text: str, reason: str) -> None:
    """In characters of the text as given, with what the grammar wants there."""
    grammar = output_form({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}).grammar
    closed = output_form({**json.loads(grammar.source), "additionalProperties": False}).grammar
    found = matches(closed, text)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "text",
    ['{"é/":1}', '{ "é/" :\n1 }', '  {"\\u00e9\\/": 1}\n', '{"\\u00E9/":1 }'],
)
def test_json_from_elsewhere_may_be_laid_out_in_any_way(text: str) -> None:
    """Whitespace, and characters escaped that need not be."""
    grammar = output_form({"properties": {"é/": {"type": "integer"}}, "type": "object", "required": ["é/"]}).grammar
    assert matches(grammar, text) is None


def test_escapes_are_told_by_the_given_texts_index() -> None:
    """Not by that of the text without escapes."""
    found = matches(output_form({"enum": ["éé", "éa"]}).grammar, '"\\u00e9\\u00e8"')
    assert found is not None
    assert found.startswith("at index 7, ")


def test_a_prefix_matches_where_the_text_may_go_on() -> None:
    """What is cut off is right so far, or not."""
    grammar = Grammar("choice", '["yes", "no"]')
    assert matches(grammar, "ye", whole=False) is None
    assert matches(grammar, "ya", whole=False) is not None


def test_no_option_is_no_grammar() -> None:
    """The reply is free."""
    assert grammar_of(RequestOptions()) is None


def test_options_and_schemas_become_grammars_in_one_place() -> None:
    """Each as its kind."""
    assert grammar_of(RequestOptions(regex="a+")) == Grammar("regex", "a+")
    assert grammar_of(RequestOptions(choice=["é", "b"])) == Grammar("choice", '["é", "b"]')
    assert grammar_of(RequestOptions(grammar='start: "a"')) == Grammar("lark", 'start: "a"')
    form = output_form(int)
    assert grammar_of(RequestOptions(), form) is form.grammar


@pytest.mark.parametrize("options", [RequestOptions(regex="a"), RequestOptions(choice=["a"])])
def test_a_schema_beside_another_grammar_is_refused(options: RequestOptions) -> None:
    """A reply follows one grammar."""
    with pytest.raises(InvalidOptionError, match=r"schema and (regex|choice) exclude each other"):
        grammar_of(options, output_form(int))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (RequestOptions(regex="("), SchemaRegexError),
        (RequestOptions(regex="(?=a)a"), SchemaRegexError),
        (RequestOptions(grammar="begin: x"), InvalidSchemaError),
        (RequestOptions(grammar='start: "a" nothing'), InvalidSchemaError),
        (RequestOptions(grammar='start: %json {"not": {}}'), InvalidSchemaError),
        (RequestOptions(grammar="start: start"), UnsatisfiableSchemaError),
        (RequestOptions(grammar='start: <|im_end|> "a"'), InvalidSchemaError),
    ],
)
def test_a_broken_regex_or_grammar_is_an_error_before_generation(
    options: RequestOptions, kind: type[InvalidSchemaError]
) -> None:
    """With llguidance's words; control tokens are no text that a grammar could ask for."""
    with pytest.raises(kind):
        grammar_of(options)


@pytest.mark.parametrize("source", ["", "[", "[]", "[1]", '"a"', "{}"])
def test_a_choice_that_was_not_made_by_us_is_checked(source: str) -> None:
    """A request may come from anywhere."""
    with pytest.raises(InvalidOptionError):
        check_grammar(Grammar("choice", source))

"""Calls in the small: broken ones, their ids, and arguments that are not written as JSON."""

from __future__ import annotations

import pytest

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.types import TextDelta, ToolCallDelta, ToolCallEnded, ToolCallStarted
from tests.chat.dialects.outputs_base import NOW, ROME, SUM
from tests.chat.dialects.rows import DIALECTS, TOOLS, take

BROKEN = [
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": 1'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": 1]}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": [1]}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": NaN}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": 1e999}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": "\\ud800"}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": {"a": ' + "9" * 5000 + "}}\n</tool_call>"),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": ' + '{"a":' * 50_000),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001 + "\n</tool_call>"),
    ("hermes", '<tool_call>\n{"name": "now", "arguments": ' + '{"a":' * 300 + "1" + "}" * 301 + "\n</tool_call>"),
    ("hermes", '<tool_call>\n{"name": "", "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"arguments": {}}\n</tool_call>'),
    ("hermes", "<tool_call>\n{name: now}\n</tool_call>"),
    ("hermes", "<tool_call>"),
    ("hermes", "Write <tool_call> before a call."),
    ("qwen3-coder", "<tool_call>\n<function=now>\n<parameter=a>\n1\n"),
    ("qwen3-coder", "<tool_call>\n<function=now>\n"),
    ("qwen3-coder", "<tool_call>\n<function=now>\nWhat?\n</function>\n</tool_call>"),
    ("glm", "<tool_call>now\n<arg_key>a</arg_key>\n1</tool_call>"),
    ("mistral-nemo", '[TOOL_CALLS] {"name": "now"}'),
    ("devstral", "[TOOL_CALLS]now[ARGS]nothing"),
    ("kimi-k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_end|>"),
    ("deepseek-v3.1", "<｜tool▁calls▁begin｜>now"),
    ("gemma-4", '<|tool_call>call:now{a:<|"|>b}<tool_call|>'),
    ("gemma-4", "<|tool_call>call:now{a:1"),
    ("lfm2", "<|tool_call_start|>[now(1)]<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[now(a=open('x'))]<|tool_call_end|>"),
    ("lfm2", "<|tool_call_start|>[now(a='b"),
    ("lfm2", "<|tool_call_start|>[now(a=" + "[" * 3000 + "]" * 3000 + ")]<|tool_call_end|>"),
    ("minimax-m3", ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="now">]<]minimax[>[<a>1]<]minimax[>[</b>'),
    ("apertus", '<|tools_prefix|>[{"now": 1}]<|tools_suffix|>'),
    ("solar", "<|tool_calls|><|tool_call:begin|>abc<|tool_call:name|>now{}"),
    ("gpt-oss", "<|channel|>commentary to=functions.now<|message|>{1}<|call|>"),
    ("muse", ' to=now<|message|><atem:function_calls>\n<atem:invoke name="now">'),
]


@pytest.mark.parametrize(("name", "reply"), BROKEN, ids=lambda value: value[:40])
def test_what_is_no_call_stays_text(name: str, reply: str) -> None:
    """In whole, white space and all, but for marks that are no text anyway."""
    for parts in ([reply], list(reply) if len(reply) < 2000 else [reply[:700], reply[700:]]):
        taken = take(DIALECTS[name].parser(TOOLS), *parts)
        assert not taken.calls
        assert "now" not in reply or "now" in taken.text
        if name not in ("gpt-oss", "muse"):
            assert taken.text == reply


def test_a_broken_call_is_noted_by_how_it_begins() -> None:
    """At most 80 characters of it, each one that breaks, and none that is whole."""
    parser = DIALECTS["hermes"].parser(TOOLS)
    whole = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    parser.push(f"Hm. <tool_call>{{oops}}</tool_call>{whole}<tool_call>\n" + "x" * 200)
    parser.flush()
    assert len(parser.calls) == 1
    first, second = parser.notes
    assert first.startswith("what begins like a call could not be read as one: '<tool_call>{oops}")
    assert second.endswith(repr("<tool_call>\n" + "x" * 68))
    assert DIALECTS["hermes"].parser(TOOLS).notes == ()


def test_a_call_after_a_broken_one_is_a_call() -> None:
    """What stands behind a mark that began none is read again."""
    broken = '<tool_call>\n{"name": "now", "arguments": {oops}}\n</tool_call>\n'
    whole = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    parser = DIALECTS["hermes"].parser(TOOLS)
    events = parser.push(broken + whole) + parser.flush()
    assert [type(event) for event in events] == [
        ToolCallStarted,
        ToolCallDelta,
        TextDelta,
        ToolCallStarted,
        ToolCallDelta,
        ToolCallEnded,
    ]
    assert events[0] == events[3] == ToolCallStarted(0, "call00000", "now")
    assert take(DIALECTS["hermes"].parser(TOOLS), broken + whole).text == broken.rstrip()


def test_a_list_that_breaks_keeps_the_calls_before() -> None:
    """The rest is text."""
    reply = '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": oops}]'
    taken = take(DIALECTS["mistral-nemo"].parser(TOOLS), *reply)
    assert taken.calls == (NOW,)
    assert taken.text == ', {"name": oops}]'


def test_several_calls_in_one_section_are_taken_though_the_family_writes_one() -> None:
    """Models do."""
    reply = (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n'
        '{"name": "add", "arguments": {"numbers": [1, 2.5]}}\n</tool_call>'
    )
    assert take(DIALECTS["hermes"].parser(TOOLS), *reply).calls == (ROME, SUM)


def test_line_breaks_inside_of_strings_are_taken() -> None:
    """Models write them; told of, they are escaped."""
    reply = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "a\n\tb"}}\n</tool_call>'
    parser = DIALECTS["hermes"].parser(TOOLS)
    events = [event for part in reply for event in parser.push(part)] + parser.flush()
    assert "".join(event.arguments for event in events if isinstance(event, ToolCallDelta)) == '{"city": "a\\n\\tb"}'
    assert parser.calls[0].arguments == {"city": "a\n\tb"}


@pytest.mark.parametrize(
    ("name", "reply", "ids"),
    [
        (
            "hermes",
            '<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "now"}</tool_call>',
            ["call00002", "call00003"],
        ),
        ("mistral-nemo", '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abcdefghi"}]', ["abcdefghi"]),
        ("mistral-nemo", '[TOOL_CALLS][{"name": "now", "arguments": {}}]', ["call00002"]),
        ("mistral-nemo", '[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "taken"}]', ["call00002"]),
        ("mistral", "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}", ["abcdefghi"]),
        ("solar", "<|tool_calls|><|tool_call:begin|>xyz<|tool_call:name|>now<|tool_call:args|>{}", ["xyz"]),
        (
            "kimi-k2",
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:7<|tool_call_argument_begin|>{}<|tool_call_end|>"
            "<|tool_call_begin|>functions.now:7<|tool_call_argument_begin|>{}<|tool_call_end|>",
            ["functions.now:7", "functions.now:3"],
        ),
        ("command-r7b", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "now", "parameters": {}}]', ["call00002"]),
    ],
)
def test_ids_are_the_family_s_own_or_made_and_unique_in_the_conversation(name: str, reply: str, ids: list[str]) -> None:
    """Made ones have nine letters and digits, which most families take, and depend on nothing but the history."""
    for _ in range(2):
        parser = DIALECTS[name].parser(TOOLS, taken_ids=["taken", "call00001"])
        parser.push(reply)
        parser.flush()
        assert [call.id for call in parser.calls] == ids


_TYPED = ToolDefinition(
    "typed",
    "",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "choice": {"enum": ["1", "2"]},
            "constant": {"const": "true"},
            "number": {"type": "number"},
            "flag": {"type": "boolean"},
            "nothing": {"type": ["integer", "null"]},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "list": {"type": "array"},
            "ref": {"$ref": "#/$defs/word"},
            "lost": {"$ref": "#/$defs/nowhere"},
            "any": {},
        },
        "$defs": {"word": {"type": "string"}},
    },
)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "12", "12"),
        ("text", "null", "null"),
        ("text", '{"a": 1}', '{"a": 1}'),
        ("choice", "1", "1"),
        ("constant", "true", "true"),
        ("number", "1.5", 1.5),
        ("number", "many", "many"),
        ("flag", "true", True),
        ("flag", "True", True),
        ("nothing", "null", None),
        ("nothing", "None", None),
        ("either", "12", 12),
        ("either", "twelve", "twelve"),
        ("either", "true", "true"),
        ("list", "[1, 'a', (2, None)]", [1, "a", [2, None]]),
        ("list", "[1, 2", "[1, 2"),
        ("ref", "5", "5"),
        ("lost", "5", 5),
        ("any", '{"a": [true]}', {"a": [True]}),
        ("any", "{'a': -1.5}", {"a": -1.5}),
        ("any", "plain words", "plain words"),
        ("unknown", "5", 5),
    ],
)
def test_arguments_between_marks_are_what_the_schema_says(key: str, text: str, value: JsonValue) -> None:
    """Where it leaves a choice, JSON if it is some; else the text, so that the schema's check can say what is wrong."""
    parser = DIALECTS["qwen3-coder"].parser([_TYPED])
    parser.push(f"<function=typed>\n<parameter={key}>\n{text}\n</parameter>\n</function>")
    parser.flush()
    assert parser.calls[0].arguments == {key: value}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'it\\'s'", "it's"),
        ('"a\\u0041\\x42\\n\\q"', "aAB\n\\q"),
        ("-0.5e3", -500.0),
        ("{'a': {\"b\": [None, False]}, 'c': ()}", {"a": {"b": [None, False]}, "c": []}),
        ("[1, 2,]", [1, 2]),
        ("true", True),
    ],
)
def test_python_s_literals_are_read(text: str, value: JsonValue) -> None:
    """Those that JSON has."""
    parser = DIALECTS["lfm2"].parser(TOOLS)
    parser.push(f"<|tool_call_start|>[now(a={text})]<|tool_call_end|>")
    assert parser.calls[0].arguments == {"a": value}

"""`ChatTemplate`: Hugging Face's conventions, errors, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jinja2
import pytest

from localllm._json import JsonValue
from localllm.chat.template import CHATML, ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message
from tests.chat import huggingface
from tests.chat.conversations import TOOLS, as_dicts, chat, tool_chat

HELLO = [Message.user("Hello")]
CONVERSATIONS = {
    "plain": chat(" You are terse. ", "Hello  ", " Hi! ", "Who?"),
    "thoughts": [Message.user("Hello\n"), Message("assistant", "<think>\nhm</think>\n Hi"), Message.user("Who?")],
}
# What differs, and why: see docs/templates.md.
DIFFERENT = {"meetkai-functionary-medium-v3.1", "llama-cpp-deepseek-r1"}


def render(source: str, **variables: JsonValue) -> str:
    """Return what a template makes of one message."""
    return ChatTemplate(source, clock=lambda: huggingface.NOW).render(HELLO, variables=variables)


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("with_tools", [False, True])
def test_every_template_renders_as_with_plain_jinja2(
    compiled: dict[str, ChatTemplate], conversation: list[Message], with_tools: bool
) -> None:
    """All templates that llama.cpp ships give the text, or fail where, they do with jinja2 as transformers uses it."""
    assert len(compiled) >= 70
    tools = TOOLS if with_tools else None
    for name, template in compiled.items():
        try:
            expected = huggingface.render(
                template.source, as_dicts(conversation), tools=tools, bos_token="<s>", eos_token="</s>"
            )
        except (jinja2.TemplateError, TypeError):
            expected = None
        try:
            text = template.render(conversation, tools=tools, bos_token="<s>", eos_token="</s>")
        except TemplateError:
            assert expected is None, name
        else:
            assert text == expected or (with_tools and name in DIFFERENT), name


REFUSALS = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "at line 142: TypeError: 'NoneType' object is not iterable",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "at line 38: TypeError: 'NoneType' object is not iterable",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "at line 38: TypeError: 'NoneType' object is not iterable",
    "fireworks-ai-llama-3-firefunction-v2": "at line 21: UndefinedError: 'functions' is undefined",
    "google-gemma-2-2b-it": "refuses these messages: System role not supported",
}


def test_all_templates_compile_and_nearly_all_take_a_simple_conversation(compiled: dict[str, ChatTemplate]) -> None:
    """Those that do not are in docs/templates.md, with these reasons."""
    refused = {}
    for name, template in compiled.items():
        try:
            template.render(CONVERSATIONS["plain"])
        except TemplateError as exc:
            refused[name] = str(exc)
    assert set(refused) == set(REFUSALS)
    assert all(told in refused[name] for name, told in REFUSALS.items())


def test_chatml_is_the_format_that_its_name_says() -> None:
    """The built-in template writes ChatML."""
    text = ChatTemplate(CHATML).render(chat("S", "U", "A", "V"))
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n"
    )
    assert not ChatTemplate(CHATML).render(HELLO, add_generation_prompt=False).endswith("assistant\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ x|tojson }}", '{"b": "ö<é>&\'", "a": [1, null]}'),
        ("{{ x|tojson(ensure_ascii=true) }}", '{"b": "\\u00f6<\\u00e9>&\'", "a": [1, null]}'),
        ("{{ x|tojson(indent=1, sort_keys=true) }}", '{\n "a": [\n  1,\n  null\n ],\n "b": "ö<é>&\'"\n}'),
        ("{{ x.a|tojson(separators=(',', ':')) }}", "[1,null]"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2026-01-02"),
        ("{% generation %}{{ 1 }}{% set y = 2 %}{% endgeneration %}{{ y is defined }}", "1False"),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}"
         "{% endfor %}", "023"),
        ("   {% if true %}\nx\n   {% endif %}\n", "x\n"),
        ("{{ nothing }}|{{ nothing is defined }}|{{ 'a' in nothing }}|{{ x.nothing }}|{{ x['nothing'] }}",
         "|False|False||"),
        ("{{ none }}{{ true }}{{ 1.0 }}{{ [1, 'a', none] }}{{ {'k': (1,)} }}", "NoneTrue1.0[1, 'a', None]{'k': (1,)}"),
        ("{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}{{ ns.no }}",
         "3"),
        ("{% macro m(a, b='x') %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{% call m(1) %}c{% endcall %}"
         "{{ m(2, b=3) }}", "1xc23"),
        ("{% for k, v in x.items() %}{{ loop.index }}{{ k }}{{ loop.last }}{{ loop.length }}{% endfor %}",
         "1bFalse22aTrue2"),
        ("{% for a in [1, [2, [3]]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}", "123"),
        ("{{ [3, 1, 2]|sort|join('-') }}{{ ['a', 'B', 'a']|unique|list }}{{ [1, 5]|max }}{{ [4, 2]|min }}",
         "1-2-3['a', 'B']52"),
        ("{{ [{'a': 1}, {'a': 2}]|map(attribute='a')|list }}{{ [{'a': 1}, {'b': 2}]|selectattr('a', 'defined')|list }}",
         "[1, 2][{'a': 1}]"),
        ("{{ [1, 2, 3]|select('odd')|sum }}{{ [1, 2]|reject('equalto', 1)|first }}{{ [1, 2]|last }}", "422"),
        ("{{ none|select|list }}{{ none|map('upper')|list }}", "[][]"),
        ("{{ 'a,b'.split(',') }}{{ 'x y  z'.split() }}{{ 'a-b-c'.rsplit('-', 1) }}{{ ' x '.strip() }}{{ 'ab'[::-1] }}",
         "['a', 'b']['x', 'y', 'z']['a-b', 'c']xba"),
        ("{{ '%s-%03d-%.2f-%(k)s' % {'k': 1} if false else '%s-%03d-%.2f%%' % ('a', 7, 1.5) }}", "a-007-1.50%"),
        ("{{ '{}-{1}-{k:>4}-{0!r}'.format('a') if false else '{}-{}-{k:>4}'.format('a', 2, k='z') }}", "a-2-   z"),
        ("{{ 'a\nb\n\nc'|indent(2) }}|{{ 'a\nb'|indent(1, first=true) }}", "a\n  b\n\n  c| a\n b"),
        ("{{ 'x' ~ 1 ~ none }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ 7 / 2 }}{{ -1 }}{{ 1 < 2 < 3 }}{{ 3 > 2 < 1 }}",
         "x1None1024333.5-1TrueFalse"),
        ("{{ '7'|int + 1 }}{{ 'x'|int }}{{ '1.5'|float }}{{ 2.567|round(2) }}{{ -3|abs }}{{ '1e3'|int }}",
         "801.52.5731000"),
        ("{{ 'x'|int(5) }}{{ '-3'|int }}{{ 'inf'|int }}{{ none|int(4) }}{{ 'ff'|int(0, 16) }}{{ [1.5, 2]|sum }}",
         "5-3042553.5"),
        ("{{ [{'n': 1}, {'n': 2}]|sum('n') }}{{ '%(a)s %%' % {'a': 'é'} }}{{ '%r' % 'é' }}{{ '%a' % 'é' }}",
         "3é %'é''\\xe9'"),
        ("{{ '{!r}{!a}{!s:>3}{k}'.format('é', 'é', 'é', k=none) }}{{ '{{}}{0}{0}'.format([1]) }}",
         "'é''\\xe9'  éNone{}[1][1]"),
        ("{{ x['a'] }}{{ x['items']()|length }}{{ 'abc'[0] }}{{ 'abc'[9] }}{{ [1][-1] }}{{ range(3)[1] }}",
         "[1, None]2a11"),
        ("{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.next() }}", "12None1"),
        ("{{ 'aXbX'.rsplit('X') }}{{ 'a'.partition('-') }}{{ 'aa'.count('a') }}{{ 'a'.startswith(('b', 'a')) }}",
         "['a', 'b', '']('a', '', '')2True"),
        ("{{ x.get('a') }}{{ x.get('z', 5) }}{{ x.keys()|list }}{{ x|dictsort|length }}{{ x|length }}",
         "[1, None]5['b', 'a']22"),
        ("{{ 'abc'|upper|lower|title|capitalize }}{{ 'a b'.replace(' ', '_') }}{{ 'a'|replace('a', 'b') }}", "Abca_bb"),
        ("{{ '<a>'|e }}{{ '<a>'|safe }}{{ 'x'|default('y') }}{{ nothing|default('y') }}{{ ''|d('z', true) }}",
         "&lt;a&gt;<a>xyz"),
        ("{% set c = cycler(1, 2) %}{{ c.next() }}{{ c.current }}", "12"),
        ("{% set j = joiner('+') %}{{ j() }}a{{ j() }}b", "a+b"),
        ("{% set t %}{{ 1 }}b{% endset %}{{ t }}{% filter upper %}{{ t }}{% endfilter %}", "1b1B"),
        ("{{ dict(a=1).a }}{{ dict([('k', 'v')]).k }}{{ {messages[0].role: 1} }}{{ [1, 2].index(2) }}",
         "1v{'user': 1}1"),
        ("{{ 'abc' is string }}{{ x is mapping }}{{ 4 is even }}{{ 'a' is in ['a'] }}{{ 4 is divisibleby 2 }}",
         "TrueTrueTrueTrueTrue"),
    ],
)  # fmt: skip
def test_jinja_and_hugging_face_conventions(source: str, expected: str) -> None:
    """Statements, filters, methods and tests give what they give in jinja2 with Hugging Face's settings."""
    value: dict[str, JsonValue] = {"b": "ö<é>&'", "a": [1, None]}
    assert render(source, x=value) == expected
    assert huggingface.render(source, as_dicts(HELLO), x=value) == expected


def test_variables_reach_the_template() -> None:
    """Tokens, tools, documents and further variables are visible by the names that transformers uses."""
    text = ChatTemplate(
        "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools[0].function.name }}{{ documents }}{{ x }}"
    ).render(HELLO, bos_token="<s>", eos_token="</s>", tools=TOOLS, documents=[{"t": "d"}], variables={"x": 1})
    assert text == "<s></s>Trueget_weather[{'t': 'd'}]1"


def test_message_fields_are_there_only_if_the_message_has_them() -> None:
    """A template that asks whether a key is defined gets the right answer."""
    source = "{% for m in messages %}{{ m.keys()|list }}{% endfor %}"
    assert ChatTemplate(source).render(HELLO) == "['role', 'content']"
    text = ChatTemplate(source).render(tool_chat("q", "t", "a", "r", "x"))
    assert "['role', 'content', 'reasoning_content', 'tool_calls']['role', 'content', 'tool_call_id']" in text


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("{{ raise_exception('Roles must alternate!') }}", "refuses these messages: Roles must alternate!"),
        ("a\nb{{ nothing.at.all }}", "fails at line 2: UndefinedError: 'nothing' is undefined"),
        ("\n\n{{ 1 + 'a' }}", "fails at line 3: TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ messages.__class__.x }}", "'__class__' of 'list' object is unsafe"),
        ("{{ messages() }}", "'list' object is not callable"),
        ("{{ nothing() }}", "'nothing' is undefined"),
        ("{% for a in 5 %}{% endfor %}", "'int' object is not iterable"),
        ("{{ 'a'|sum }}", "sum of a"),
        ("{{ 5|length }}", "has no len()"),
        ("{{ 5|items }}", "Can only get item pairs from a mapping"),
        ("{{ 5|join }}", "'int' object is not iterable"),
        ("{{ 'a'.join([1]) }}", "item 0 is a int"),
        ("{{ '%(k)s' % 1 }}", "format requires a mapping"),
        ("{{ '%s%s' % 'a' }}", "not enough arguments"),
        ("{{ 'a' % 'b' }}", "not all arguments converted"),
        ("{{ '%d' % namespace() }}", "%d of a Namespace"),
        ("{{ '{}'.format() }}", "IndexError"),
        ("{{ dict(5) }}{{ dict(messages) }}", "cannot make a dict of a int"),
        ("{{ {}.get([]) }}", "a list is no key"),
        ("{{ 1 in 5 }}", "is not iterable"),
        ("{{ 5[1:] }}", "a int has no slices"),
        ("{{ messages['append'](1) }}", "'append' of 'list' object is unsafe"),
        ("{% for a in 'ab' recursive %}{{ loop(5) }}{% endfor %}", "'int' object is not iterable"),
        ("{{ '\ud800' }}", "lone surrogate"),
        ("{{ x|tojson }}{{ {}[x] }}{{ nothing|tojson }}", "not JSON serializable"),
    ],
)
def test_a_failing_template_says_what_happened_and_where(source: str, told: str) -> None:
    """Whatever a template does wrong is a TemplateError with the line and the reason."""
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("a\n{% if %}", "does not parse: line 2"),
        ("{{ 'a'|nosuchfilter }}", "No filter named 'nosuchfilter'"),
        ("{% include 'x' %}", "uses {% include %} at line 1"),
        ("{% from 'x' import y %}", "uses {% from %}"),
        ("{% block a %}{% endblock %}", "uses {% block %}"),
        ("{% autoescape true %}{% endautoescape %}", "uses {% autoescape %}"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "does not compile: maximum recursion depth"),
        ("{{ " + "9" * 5000 + " }}", "does not compile: Exceeds the limit"),
        (" " * 200_000, "200,000 characters; at most 131,072"),
    ],
)
def test_a_template_that_does_not_compile_says_so(source: str, told: str) -> None:
    """Syntax errors have their line; what Python's compiler refuses is a TemplateError too."""
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source)
    assert told in str(caught.value)


def test_an_unknown_filter_in_a_branch_not_taken_does_no_harm() -> None:
    """As in jinja2, a filter is missed only where it is used."""
    assert render("{% if false %}{{ 1|from_json }}{% else %}a{% endif %}") == "a"


def test_one_template_renders_in_many_threads_at_once() -> None:
    """Renders share nothing: each thread's text and budget are its own."""
    template = ChatTemplate("{% for i in range(200) %}{{ messages[0].content }}{% endfor %}")

    def work(number: int) -> bool:
        return template.render([Message.user(f"<{number}>")]) == f"<{number}>" * 200

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))

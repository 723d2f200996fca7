"""Templates are untrusted input: none of these takes more than its share of time or memory."""

from __future__ import annotations

import contextlib
import time
import tracemalloc

import pytest

from localllm.chat.budget import Budget, TemplateLimits
from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message

LIMITS = TemplateLimits(steps=30_000, chars=100_000, cpu_s=60)  # the steps must do it, not the clock
HELLO = [Message.user("hello there")]
# A value that holds another one twice, and that one a third twice, and so on: 2 ** 100 of them.
DEEP = (
    "{% set ns = namespace(x=[1], y=[1], t=(1,)) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
)
DOUBLE = "{%% set ns = namespace(x='aaaaaaaaaa', l=[1]) %%}{%% for i in range(99) %%}{%% set %s %%}{%% endfor %%}"
TWO = "{% set a = 'a' * 90000 %}{% set b = 'b' + 'a' * 45000 %}"

STEPS = "computes too much"
TEXT = "makes a text of"
INTEGER = "makes an integer of more than 4096 bits"

HOSTILE: dict[str, tuple[str, str]] = {
    "range": ("{% for i in range(10**9) %}{% endfor %}", "makes a range of 1,000,000,000 items"),
    "nested loops": ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", STEPS),
    "output": ("{% for i in range(9999) %}" + "x" * 9999 + "{% endfor %}", TEXT),
    "macro output": ("{% macro f() %}{% for i in range(9999) %}" + "x" * 999 + "{% endfor %}{% endmacro %}{{ f() }}",
                     TEXT),
    "repeated text": ("{{ 'a' * 10**9 }}", TEXT),
    "repeated content": ("{{ 10**9 * messages[0].content }}", TEXT),
    "repeated list": ("{% set x = [1] * 10**9 %}", STEPS),
    "power": ("{{ (2**4000) ** 1000 }}", INTEGER),
    "product": (DOUBLE % "ns.x = (ns.x|length) ** 900 * 3 ** 2000", INTEGER),
    "percent width": ("{{ '%1000000000d' % 1 }}", "unsupported format"),
    "percent star": ("{{ '%*d' % (1000000000, 1) }}", "unsupported format"),
    "percent precision": ("{{ '%.1000000000f'|format(1.5) }}", "unsupported format"),
    "percent zeros": ("{{ ('%' + '0' * 90000) % 1 }}", "unsupported format"),
    "percent often": ("{{ ('%9999d' * 5000) % ((1,) * 5000) }}", "makes too much text"),
    "format width": ("{{ '{:1000000000}'.format(1) }}", "unsupported format field"),
    "format nested": ("{{ '{:{w}}'.format(1, w=1000000000) }}", "unsupported format field"),
    "format attribute": ("{{ '{0.__class__}'.format(1) }}", "unsupported format field"),
    "center": ("{{ 'a'|center(10**9) }}", TEXT),
    "rjust": ("{{ 'a'.rjust(10**9) }}", TEXT),
    "zfill": ("{{ 'a'.zfill(10**9) }}", TEXT),
    "expandtabs": ("{{ 'a'.expandtabs(10**9) }}", "is unsafe"),
    "indent": ("{{ 'a\nb'|indent(10**9) }}", "indent by more than"),
    "json indent": ("{{ [1]|tojson(indent=10**9) }}", "indents by"),
    "json separators": ("{{ [1]|tojson(separators=('a' * 999, 'b')) }}", "separators are longer"),
    "replace": (DOUBLE % "ns.x = ns.x.replace('a', ns.x)", TEXT),
    "replace nothing": (DOUBLE % "ns.x = ns.x|replace('', ns.x)", TEXT),
    "join": ("{{ range(9999)|join('a' * 9999) }}", TEXT),
    "join filter": (DOUBLE % "ns.x = [ns.x, ns.x]|join", TEXT),
    "join method": (DOUBLE % "ns.x = ns.x.join([ns.x, ns.x])", TEXT),
    "tilde": (DOUBLE % "ns.x = ns.x ~ ns.x", TEXT),
    "plus": (DOUBLE % "ns.x = ns.x + ns.x", TEXT),
    "list plus": (DOUBLE % "ns.l = ns.l + ns.l", STEPS),
    "upper": (TWO + "{{ a.upper() }}", TEXT),
    "texts kept": ("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + ['a' * 90000] %}"
                   "{% endfor %}", "makes too much text"),
    "splits kept": ("{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + "
                    "[('a ' * 9999).split(' ')] %}{% endfor %}", STEPS),
    "rfind": (TWO + "{{ a.rfind(b) }}", STEPS),
    "rsplit": (TWO + "{{ a.rsplit(b) }}", STEPS),
    "rpartition": (TWO + "{{ a.rpartition(b) }}", STEPS),
    "strip": (TWO + "{{ a.strip(b) }}", STEPS),
    "text in list": (TWO + "{{ b in [a] * 9999 }}", STEPS),
    "sort": (TWO + "{{ ([a + 'b', a + 'c'] * 999)|sort|length }}", STEPS),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "doubling recursion": ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
                           STEPS),
    "recursive loop": ("{% for x in '12' recursive %}{% if loop.depth < 60 %}{{ loop('12') }}{% endif %}{% endfor %}",
                       STEPS),
    "slices": ("{% set x = range(9999)|list %}" + "{% set y = x[:] %}" * 999, STEPS),
    "round": ("{{ 5|round(-1000000000) }}", "round to"),
    "odd": ("{{ '%1000000000d' is odd }}", "odd of a str"),
    "divisibleby": ("{{ '%1000000000d' is divisibleby 3 }}", "divisibleby of a str"),
    "time format": ("{{ strftime_now('%c' * 9999) }}", "a time format of"),
    "to_bytes": ("{{ (1).to_bytes(1000000000, 'big') }}", "is unsafe"),
    "lipsum": ("{{ lipsum(1000000000) }}", "'lipsum' is undefined"),
    "batch": ("{{ [1]|batch(10**9, 0) }}", "No filter named"),
    "dict": ("{{ dict([(1, 2)] * 99999) }}", STEPS),
    "deep output": (DEEP + "{{ ns.x }}", STEPS),
    "deep namespace": (DEEP + "{% for i in range(99) %}{% set ns.y = [namespace(a=ns.y, b=ns.y)] %}{% endfor %}"
                       "{{ ns.y }}", STEPS),
    "deep string": (DEEP + "{{ ns.x|string }}", STEPS),
    "deep tilde": (DEEP + "{{ 'a' ~ ns.x }}", STEPS),
    "deep equality": (DEEP + "{{ ns.x == ns.y }}", STEPS),
    "deep membership": (DEEP + "{{ ns.x in [ns.y] }}", STEPS),
    "deep select": (DEEP + "{{ [ns.x]|select('eq', ns.y)|list }}", STEPS),
    "deep index": (DEEP + "{{ [].index(ns.x) }}", STEPS),
    "deep count": (DEEP + "{{ [ns.x].count(ns.y) }}", STEPS),
    "deep changed": (DEEP + "{% for i in [ns.x, ns.y] %}{{ loop.changed(i) }}{% endfor %}", STEPS),
    "deep sort": (DEEP + "{{ [ns.x, ns.y]|sort }}", STEPS),
    "deep max": (DEEP + "{{ [ns.x, ns.y]|max }}", STEPS),
    "deep unique": (DEEP + "{{ [ns.t]|unique }}", STEPS),
    "deep json": (DEEP + "{{ ns.x|tojson }}", STEPS),
    "deep percent": (DEEP + "{{ '%s' % ns.x }}", STEPS),
    "deep percent r": (DEEP + "{{ '%r' % ns.x }}", STEPS),
    "deep format": (DEEP + "{{ '{}'.format(ns.x) }}", STEPS),
    "deep upper": (DEEP + "{{ ns.x|upper }}", STEPS),
    "deep refusal": (DEEP + "{{ raise_exception(ns.x) }}", STEPS),
    "deep key": (DEEP + "{{ {ns.t: 1} }}", "a tuple is no key"),
    "deep get": (DEEP + "{{ {}.get(ns.t) }}", "a tuple is no key"),
    "deep in dict": (DEEP + "{{ ns.t in {} }}", STEPS),
    "nested lists": ("{% set ns = namespace(x=[1]) %}{% for i in range(3000) %}{% set ns.x = [ns.x] %}{% endfor %}"
                     "{{ ns.x|tojson }}", "RecursionError"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "told"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_end_soon_with_the_reason(source: str, told: str) -> None:
    """Each ends as a TemplateError that names what happened, in little time and little memory."""
    started = time.thread_time()
    with pytest.raises(TemplateError) as caught:
        ChatTemplate(source, limits=LIMITS).render(HELLO)
    assert time.thread_time() - started < 10
    assert told in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name", [name for name, (_, told) in HOSTILE.items() if told not in (STEPS, "RecursionError") or "kept" in name]
)
def test_hostile_templates_take_little_memory(name: str) -> None:
    """What would fill the memory is refused before it is made."""
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            ChatTemplate(HOSTILE[name][0], limits=LIMITS).render(HELLO)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


@pytest.mark.parametrize(
    "source",
    [
        "{{ {}[x] }}{{ [1]|map('string')|list }}{{ ns }}",
        "{{ range(5) }}{{ loop }}{{ cycler }}{{ namespace(a=1) }}{{ dict }}{{ ''.join }}",
        "{{ strftime_now('%99999999d')|length * 0 }}{{ raise_exception.__globals__ }}",
        "{{ ('9' * 90000)|int }}{{ ('f' * 90000)|int(0, 16) }}{{ '1e999'|int }}{{ 10 ** -5 }}",
        "{% set ns = namespace(x=1) %}{% for i in range(9999) %}{% set ns.x = namespace(p=ns.x) %}{% endfor %}",
    ],
)
def test_odd_but_harmless_templates_render(source: str) -> None:
    """What asks for little is not refused."""
    assert isinstance(ChatTemplate(source, limits=LIMITS).render(HELLO), str)


def test_the_clock_stops_what_the_steps_do_not() -> None:
    """A render that computes for longer than `cpu_s` ends, however few its steps."""
    ticks = iter(range(1000))
    budget = Budget(TemplateLimits(cpu_s=2), clock=lambda: float(next(ticks)))
    with pytest.raises(TemplateError, match="longer than 2 s"):
        for _ in range(10_000):
            budget.spend()


def test_the_bounds_grow_with_the_messages() -> None:
    """A template that repeats a long document some times is no hostile one."""
    document = Message.user("word " * 100_000)
    text = ChatTemplate("{% for i in range(4) %}{{ messages[0].content|tojson }}{% endfor %}").render([document])
    assert len(text) > 2_000_000


COMPILED = [
    "{{a}}" * 20_000,
    "{% if a %}{% set b=1 %}{% endif %}" * 3_000,
    "{{ " + "a ~ " * 20_000 + "a }}",
    "{{ a" + ".b" * 50_000 + " }}",
    "{% macro f() %}" * 300 + "{% endmacro %}" * 300,
    "{%- " * 30_000,
    "{{ '" + "\\'" * 60_000,
    "{{ " + "1_" * 60_000 + " }}",
    " " * 60_000 + "{%- set a=1 -%}" + " " * 60_000,
    "{# " * 40_000,
]


@pytest.mark.parametrize("source", COMPILED, ids=lambda source: source[:12])
def test_hostile_sources_compile_or_fail_soon(source: str) -> None:
    """Reading a template takes seconds at the worst, and ends in a template or a TemplateError."""
    started = time.thread_time()
    with contextlib.suppress(TemplateError):
        ChatTemplate(source)
    assert time.thread_time() - started < 10

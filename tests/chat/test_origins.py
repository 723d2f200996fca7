"""Content stays content: every operation that a template has keeps the origin of each character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.chat.budget import TemplateLimits
from localllm.chat.filters import CONTEXT_FILTERS, PLAIN_FILTERS
from localllm.chat.strings import STRING_METHODS
from localllm.chat.template import ChatTemplate
from localllm.chat.traced import CONTENT, OWN, TracedText, blend, join, origin_of, origins_of, plain, traced
from localllm.errors import TemplateError
from localllm.types import Message

MARK = "\U000f0000"  # a character that no template has: wherever it comes out, it came from content
BINARY = ["+", "*", "~", "%", "==", "in", "and", "or", "-", "//", "<"]


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(";")]


FILTERS = _listed(
    """
    upper; lower; title; capitalize; trim; string; list; first; last; reverse; join; max; join('-'); join(c);
    tojson; tojson(indent=2); indent(2); indent(c); replace('o', c); items; sum; replace(c, 'o');
    replace('o', '-'); replace('', '-'); e; safe; sort; unique; map('upper')|list; default('d'); length; format(c);
    select('string')|list; center(9); int; dictsort; format(l); attr('x'); float; escape; d; count; min;
    reject('none')|list; selectattr('k')|list; abs; rejectattr('j')|list; map(attribute='k')|list; round;
    join(d='-', attribute='k'); tojson(true)
    """
)
METHODS = _listed(
    """
    strip(); split(); split('o'); rsplit(c, 1); splitlines(); splitlines(true); partition(' '); rpartition('n');
    replace('', c); replace('o', c, 1); replace('o', '-'); join(l); join([c, 'b']); format(c, k=c); zfill(30);
    ljust(30); rjust(30, '*'); center(30); swapcase(); casefold(); upper(); lower(); title(); capitalize();
    removeprefix('o'); removesuffix(c); removesuffix('o'); lstrip('o'); get('k'); items(); values(); keys();
    copy(); find(c); count('o'); startswith(c); rstrip(); rsplit(); rsplit('o'); split(none, 1); partition('zz');
    rpartition('zz'); index(c); endswith('o')
    """
)
PATTERNS = _listed(
    """
    '%s-%5s-%r' % ({}, {}, {}); '%(k)s' % dict(k={}); {} % 1; '{{}}{{:>30}}{{!r}}'.format({}, {}, {}); {}[1:];
    {}[:-1]; {}[::-1]; {}[0]; {}[-1]; m({}); [{}]; ({}, {}); {{'k': {}, c: {}}}; dict(k={}); ({} if {} else {});
    namespace(a={}).a; cycler({}).current; {} * 2; 2 * {}; joiner({})
    """
)
NAMES = ["c", "d", "x", "messages[0].content", "messages[0]", "l", "o", "n", "'own'", "2", "none", "u"]
PREAMBLE = "{% macro m(a) %}<{{ a }}>{% endmacro %}{% set l = [c, 'own', d] %}{% set o = {'k': c, 'own': d} %}"


def _combined(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(BINARY), inner),
        st.builds("({}|{})".format, inner, st.sampled_from(FILTERS)),
        st.builds("({}.{})".format, inner, st.sampled_from(METHODS)),
        st.builds(lambda pattern, *parts: pattern.format(*parts), st.sampled_from(PATTERNS), inner, inner, inner),
    )


def check(source: str, content: str) -> str | None:
    """Render, and check that every mark in the text is known as content. Return the text if there is one."""
    template = ChatTemplate(source, limits=TemplateLimits(steps=20_000, chars=20_000))
    try:
        text = template.render([Message.user(content)], variables={"c": content, "d": f"{content} 7", "x": 7, "n": 2.5})
    except TemplateError:
        return None
    assert all(origin != OWN for character, origin in zip(text, origins_of(text), strict=True) if character == MARK)
    return text


@pytest.mark.parametrize("content", [f"{MARK}o {MARK} oo\n{MARK}", f"  {MARK}ß{MARK}"])
def test_every_single_operation_keeps_origins(content: str) -> None:
    """Each operator, filter, method and form, applied to text, lists and dicts of content, gives content."""
    single = [f"{{}} {operator} {{}}" for operator in BINARY] + [f"{{}}|{name}" for name in FILTERS]
    single += [f"{{}}.{name}" for name in METHODS] + PATTERNS
    marked = 0
    for pattern in single:
        for name in ("c", "l", "o", "'o'", "'%s'", "'{}'"):
            expression = pattern.format(name, *["c"] * 3)
            loop = f"{{% for i in {expression} %}}{{{{ i }}}}{{% endfor %}}"
            for body in (f"{{{{ {expression} }}}}", loop, f"{{% set a, b, c = {expression} %}}{{{{ a ~ b ~ c }}}}"):
                marked += MARK in (check(PREAMBLE + body, content) or "")
    assert marked > 300  # the marks do come out


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.recursive(st.sampled_from(NAMES), _combined, max_leaves=12), min_size=1, max_size=3),
    st.sampled_from(["{}", "{} own {}", "o{}\n o{}", " {}"]),
)
def test_content_stays_content_whatever_a_template_does(expressions: list[str], shape: str) -> None:
    """No combination of operations makes a character of a message one of the template's own; all end."""
    loop = f"{{% for i in {expressions[0]} %}}{{{{ i }}}}{{% endfor %}}"
    check(PREAMBLE + "".join(f"{{{{ {expression} }}}}" for expression in expressions) + loop, shape.format(MARK, MARK))


def test_every_filter_and_method_is_tried() -> None:
    """The lists above leave nothing out that could make text."""
    tried = " ".join([*FILTERS, *METHODS])
    made = [*PLAIN_FILTERS, *CONTEXT_FILTERS, *(name for name in STRING_METHODS if not name.startswith("is"))]
    assert [name for name in made if name.split()[0] not in tried] == ["rfind", "rindex"]  # which give numbers


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a{{ c }}b", "a[xYz]b"),
        ("{{ 'a' + c ~ 'b' }}", "a[xYz]b"),
        ("{{ (' ' + c + ' ')|trim }}{{ c.upper() }}{{ c[1:] }}", "[xYzXYZYz]"),
        ("{{ ('-' ~ c).split('Y') }}", "[['-x', 'z']]"),
        ("{{ ('-' ~ c).split('Y')[0] }}", "-[x]"),
        ("{{ ('-' ~ c ~ '-')|replace('-', '+') }}{{ c|replace('Y', '+') }}", "+[xYz]+[x]+[z]"),
        ("{{ [c, 'a']|join('+') }}{{ 'a'.join(c) }}", "[xYz]+a[x]a[Y]a[z]"),
        ("{{ '<%s>' % c }}{{ '<{}>'.format(c) }}", "<[xYz]><[xYz]>"),
        ("{{ c|tojson }}{{ {'k': 1}|tojson }}", '["xYz"]{"k": 1}'),
        ("{% for i in c %}{{ i }}.{% endfor %}", "[x].[Y].[z]."),
        ("{% set t %}<{{ c }}>{% endset %}{{ t|upper }}{% filter lower %}-{{ c }}{% endfilter %}", "<[XYZ]>-[xyz]"),
        ("{% macro m(t) %}<{{ t }}>{% endmacro %}{{ m(c) * 2 }}", "<[xYz]><[xYz]>"),
        ("{{ 'yes' if 'Y' in c and c.startswith('x') else 'no' }}{{ c|length }}{{ messages[0].role }}", "yes3user"),
    ],
)
def test_the_template_keeps_what_is_its_own(source: str, expected: str) -> None:
    """Text around content stays the template's own, to the character; brackets show the content here."""
    text = ChatTemplate(source).render([Message.user("-")], variables={"c": "xYz"})
    shown, inside = "", False
    for character, origin in zip(plain(text), origins_of(text), strict=True):
        if (origin != OWN) != inside:
            inside = not inside
            shown += "[" if inside else "]"
        shown += character
    assert shown + "]" * inside == expected


def test_traced_text_is_text_with_origins() -> None:
    """The value itself: equal to its text, cut and joined with its origins, plain when nothing is left of them."""
    text = TracedText("ab", OWN + CONTENT)
    assert text == "ab"
    assert hash(text) == hash("ab")
    assert str(text) is text
    assert type(plain(text)) is str
    assert (type(text[0]), origins_of(text[1])) == (str, CONTENT)
    assert type(traced("ab", OWN * 2)) is str
    assert origins_of(join(["x", text], text)) == OWN + OWN + CONTENT + OWN + CONTENT
    assert origin_of(TracedText("abc", "\2\0\2")) == "\2"
    assert origin_of(TracedText("abc", "\2\0\3")) == CONTENT
    assert blend(["\2", "\3", OWN]) == CONTENT
    with pytest.raises(ValueError, match="1 origins for 2 characters"):
        TracedText("ab", OWN)

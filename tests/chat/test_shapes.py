"""How messages reach a template: the shape that it turns out to read."""

from __future__ import annotations

import pytest

from localllm.chat.budget import TemplateLimits
from localllm.chat.dialects.dialect import dialect_of
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, RAW, ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message, ToolCall
from tests.chat.conversations import TOOLS
from tests.chat.vocab import LlamaVocabulary

HEAD = "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
TAIL = "{% endfor %}"
CALLS = "{% for c in m.tool_calls %}<{{ c.function.name }} {{ c.function.arguments|tojson }}>{% endfor %}"


def asked(*calls: ToolCall, text: str = "", thought: str | None = None) -> list[Message]:
    """Return a question and a reply with calls."""
    return [Message.user("q"), Message("assistant", text, thought=thought, tool_calls=calls)]


def call(number: int = 0, *, named: str = "f", with_id: bool = True) -> ToolCall:
    """Return a call."""
    return ToolCall(named, {"a": "é"}, f"id{number}" if with_id else "")


def test_a_template_that_writes_calls_gets_them_as_objects() -> None:
    """The usual shape: empty content, arguments as an object."""
    text = ChatTemplate(HEAD + CALLS + TAIL).render(asked(call()))
    assert text == '[user] q[assistant] <f {"a": "é"}>'


def test_a_template_that_needs_text_gets_text() -> None:
    """Arguments as JSON text where the template puts texts together."""
    source = HEAD + "{% for c in m.tool_calls %}{{ '<' + c.function.arguments + '>' }}{% endfor %}" + TAIL
    assert ChatTemplate(source).render(asked(call())) == '[user] q[assistant] <{"a": "é"}>'


def test_a_template_that_would_write_pythons_spelling_gets_text() -> None:
    """What is written as it is must be JSON."""
    source = HEAD + "{% for c in m.tool_calls %}<{{ c.function.arguments }}>{% endfor %}" + TAIL
    assert ChatTemplate(source).render(asked(call())) == '[user] q[assistant] <{"a": "é"}>'


def test_a_template_that_looks_for_no_content_gets_none() -> None:
    """Calls are written only beside content that is none, in some; content that is there stays there."""
    source = (
        "{% for m in messages %}{% if m.content is none %}" + CALLS + "{% else %}[{{ m.content }}]{% endif %}" + TAIL
    )
    assert ChatTemplate(source).render(asked(call())) == '[q]<f {"a": "é"}>'
    assert ChatTemplate(source).render(asked(call(), text="t")) == "[q][t]"


def test_calls_that_a_template_does_not_write_are_in_the_content() -> None:
    """As the Hermes models write them, after the text; or in a form that is given."""
    written = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>'
    template = ChatTemplate(HEAD + TAIL)
    assert template.render(asked(call())) == f"[user] q[assistant] {written}"
    assert template.render(asked(call(), call(1), text="t")) == f"[user] q[assistant] t\n{written}\n{written}"
    given = ChatTemplate(HEAD + TAIL, calls="{% for c in tool_calls %}!{{ c.function.name }}{% endfor %}")
    assert given.render(asked(call(), call(1))) == "[user] q[assistant] !f!f"


def test_calls_in_the_content_are_in_the_familys_own_form(compiled: dict[str, ChatTemplate]) -> None:
    """What a template does not write is written as the model's replies are read."""
    phi = "{% for m in messages %}{{ m.content }}{% endfor %}{# <|tool|> <|/tool|> #}"
    calls = (ToolCall("f", {"a": "é'\"", "b": [1, None, "x"], "c": {"d": [True, {}]}}, "id0"), ToolCall("g", {}, "id1"))
    found = set()
    for template in [*compiled.values(), ChatTemplate(phi)]:
        dialect = dialect_of(template.source)
        try:
            text = template.render(asked(*calls), tools=TOOLS)
        except TemplateError:
            continue
        if dialect.name in ("generic", "lfm2", "granite-3", "phi-4") and "message.tool_calls" not in template.source:
            assert dialect.write_calls(calls) in text, template.source
            found.add(dialect.name)
    assert found == {"generic", "lfm2", "granite-3", "phi-4"}


def test_results_come_from_the_user_where_there_is_no_role_for_them() -> None:
    """Dropped or refused, they would be lost; those that follow each other are one message."""
    results = [Message("tool", "r1", tool_call_id="id0"), Message("tool", "r2", tool_call_id="id1")]
    told = "<tool_response>\nr1\n</tool_response>\n<tool_response>\nr2\n</tool_response>"
    for other in ("", "{% elif m.role == 'tool' %}{{ raise_exception('no tools') }}"):
        source = "{% for m in messages %}{% if m.role != 'tool' %}[{{ m.role }}] {{ m.content }}"
        template = ChatTemplate(source + other + "{% endif %}{% endfor %}")
        text = template.render([*asked(call(), call(1), text="t"), *results, Message("assistant", "done")])
        assert text.endswith(f"[user] {told}[assistant] done")


def test_a_refusal_stays_a_refusal() -> None:
    """A template that takes no calls in any shape says so."""
    source = HEAD + "{% if m.tool_calls %}{{ raise_exception('no calls') }}{% endif %}" + TAIL
    with pytest.raises(TemplateError, match="no calls"):
        ChatTemplate(source).render(asked(call()))


def test_a_result_has_its_tools_name_where_it_has_no_id() -> None:
    """Found in the order of the calls; with an id the name is left out, unless the template goes by names."""
    source = HEAD + CALLS + "{% if m.role == 'tool' %}({{ m.tool_call_id }},{{ m.name }}){% endif %}" + TAIL
    calls = (call(named="f", with_id=False), call(named="g", with_id=False))
    results = [Message("tool", "r1"), Message("tool", "r2", tool_call_id="")]
    text = ChatTemplate(source).render([*asked(*calls), *results])
    assert text.endswith("[tool] r1(,f)[tool] r2(,g)")
    with_ids = [*asked(call(0, named="f"), call(1, named="g")), Message("tool", "r", tool_call_id="id1")]
    assert ChatTemplate(source).render(with_ids).endswith("[tool] r(id1,)")
    by_name = (
        HEAD + CALLS + "{% for message in [m] %}{% if m.role == 'tool' %}{{ message.name }}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(by_name + TAIL).render(with_ids).endswith("[tool] rg")
    unknown = [*with_ids[:2], Message("tool", "r", tool_call_id="id7")]
    assert ChatTemplate(by_name + TAIL).render(unknown).endswith("[tool] r")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ m.reasoning_content }}", "t"),
        ("{{ m.thinking }}", "t"),
        ("{{ m['reasoning'] }}", "t"),
        ("{{ m.keys()|list }}", "['role', 'content', 'reasoning_content']"),
        ("{% for b in m.content %}{% if b.type == 'thinking' %}<{{ b['thinking'] }}>{% else %}{{ b.text }}{% endif %}"
         "{% endfor %}", "<t>reply"),
    ],
)  # fmt: skip
def test_thoughts_go_by_the_name_that_the_template_reads(source: str, expected: str) -> None:
    """`reasoning_content` always, older names where they stand in the template, a part of the content as a last way."""
    source = "{% for m in messages %}{% if m.role == 'assistant' %}" + source + "{% else %}q{% endif %}{% endfor %}"
    assert (
        ChatTemplate(source).render([Message.user("q"), Message("assistant", "reply", thought="t")]) == f"q{expected}"
    )


def test_plain_conversations_are_never_tried_out() -> None:
    """What has no thoughts, calls or results is rendered once, and by every template in the usual shape."""
    template = ChatTemplate("{{ messages[0].content }}{% for m in messages %}{{ m.keys()|list }}{% endfor %}")
    assert template.render([Message.user("q")]) == "q['role', 'content']"


def test_raw_is_the_contents_and_nothing_else(by_name: dict[str, LlamaVocabulary]) -> None:
    """No marks and no beginning of a reply; a BOS where the vocabulary wants one, and no control tokens."""
    text = "Once upon <|eot_id|> a time"
    llama = by_name["llama-bpe"]
    prompt = PromptRenderer(ChatTemplate(RAW), llama).render([Message.user(text), Message("assistant", " there")])
    assert prompt.text == f"{text} there"
    assert prompt.tokens[0] == llama.bos_id
    assert llama.special_tokens["<|eot_id|>"] not in prompt.tokens
    assert llama.decode(prompt.tokens[1:]) == prompt.text
    qwen = by_name["qwen2"]
    plain = PromptRenderer(ChatTemplate(RAW), qwen).render([Message.user("Once")])
    assert list(plain.tokens) == qwen.encode("Once", parse_special=False)


def test_long_histories_with_tools_are_within_the_limits(templates: dict[str, str]) -> None:
    """A thousand short messages: also where a template looks through all of them for each result, or makes long texts.

    The time is not what is tested: where tests are traced for coverage, it is many times what it is.
    """
    limits = TemplateLimits(cpu_s=60)
    messages: list[Message] = []
    for number in range(250):
        made = ToolCall("get_weather", {"city": "Ulm"}, f"abcd{number:05d}")
        messages += [
            Message.user("Weather?"),
            Message("assistant", "", tool_calls=(made,)),
            Message("tool", "ok", tool_call_id=made.id),
            Message("assistant", "Fine."),
        ]
    for name in ("upstage-Solar-Open-100B", "Reka-Edge", "Qwen-Qwen3-0.6B"):
        assert ChatTemplate(templates[name], limits=limits).render(messages, tools=TOOLS)


def test_the_builtin_template_keeps_calls_and_results(smollm2: LlamaVocabulary) -> None:
    """A model without a template of its own still reads what it has called, and what came back."""
    text = PromptRenderer(ChatTemplate(CHATML), smollm2).render([*asked(call()), Message("tool", "r")]).text
    assert text == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "f", "arguments": {"a": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\nr<|im_end|>\n<|im_start|>assistant\n"
    )

"""`ChatTemplate` beside transformers: every template that llama.cpp ships, in conversations of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from localllm._json import JsonValue
from localllm.chat.template import ChatTemplate
from localllm.errors import TemplateError
from localllm.types import Message
from tests.chat import reference
from tests.chat.conversations import CONVERSATIONS, as_dicts

_DOCS = Path(__file__).parents[2] / "docs" / "templates.md"
_ROW = re.compile(r"^\| (\S+) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_Dict = dict[str, JsonValue]
_Function = Mapping[str, JsonValue]


@cache
def documented() -> dict[str, frozenset[str]]:
    """Return the conversations in which a template differs, as the table in docs/templates.md lists them."""
    _, table = _DOCS.read_text().split("| template | conversations | what differs, and why |\n")
    rows = _ROW.findall(table.split("\n\n")[0])
    return {name: frozenset(found.split(", ")) for name, found, _ in rows if name != "---"}


def documented_refusals() -> set[str]:
    """Return the templates that refuse some conversation, as docs/templates.md lists them."""
    _, table = _DOCS.read_text().split("| template | what |\n| --- | --- |\n")
    rows = table.split("\n\n")[0].splitlines()
    return {name for row in rows for name in row.split(" | ")[0].removeprefix("| ").split(", ")}


@pytest.fixture(scope="module")
def today(compiled: dict[str, ChatTemplate]) -> dict[str, ChatTemplate]:
    """Every template, with the clock that transformers has."""
    return {
        name: ChatTemplate(template.source) if "strftime_now" in template.source else template
        for name, template in compiled.items()
    }


def rendered(
    template: ChatTemplate, messages: Sequence[Message], tools: list[JsonValue] | None, prompt: bool
) -> str | None:
    """Return what our template renders, None if it refuses."""
    try:
        return template.render(messages, tools=tools, bos_token="<s>", eos_token="</s>", add_generation_prompt=prompt)
    except TemplateError:
        return None


def agrees(template: ChatTemplate, conversation: str, *, prompt: bool) -> bool:
    """Tell whether both give the same text, or both refuse."""
    messages, tools = CONVERSATIONS[conversation]
    for _ in range(2):  # again, should midnight come between the two
        expected = reference.render(template.source, as_dicts(messages), tools, add_generation_prompt=prompt)
        text = rendered(template, messages, tools, prompt)
        if text == (None if isinstance(expected, Exception) else expected):
            return True
    return False


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_template_renders_as_transformers_does_or_is_listed(
    today: dict[str, ChatTemplate], conversation: str
) -> None:
    """The table in docs/templates.md has every template that differs in this conversation, and no other."""
    assert len(today) >= 70
    different = {name for name, template in today.items() if not agrees(template, conversation, prompt=True)}
    assert different == {name for name, conversations in documented().items() if conversation in conversations}
    assert {name for name, template in today.items() if not agrees(template, conversation, prompt=False)} == different


def test_templates_that_refuse_are_listed(today: dict[str, ChatTemplate]) -> None:
    """The second table has every template that refuses a conversation here, and no other."""
    refusing = {
        name
        for name, template in today.items()
        for messages, tools in CONVERSATIONS.values()
        if rendered(template, messages, tools, True) is None
    }
    assert refusing == documented_refusals()


def _hermes(calls: Sequence[_Function]) -> str:
    return "\n".join(f"<tool_call>\n{_json(call)}\n</tool_call>" for call in calls)


def _granite(calls: Sequence[_Function]) -> str:
    return f"<|tool_call|>[{', '.join(map(_json, calls))}]"


def _lfm(calls: Sequence[_Function]) -> str:
    written = []
    for call in calls:
        assert isinstance(call["arguments"], dict)
        pairs = [f"{k}={_json(v) if isinstance(v, str) else v}" for k, v in call["arguments"].items()]
        written.append(f"{call['name']}({', '.join(pairs)})")
    return f"<|tool_call_start|>[{', '.join(written)}]<|tool_call_end|>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _in_content(messages: list[_Dict], write: Callable[[Sequence[_Function]], str], told: bool) -> list[_Dict]:
    """Write calls into the content, and let the user tell results if `told`."""
    shaped: list[_Dict] = []
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            written = write([call["function"] for call in calls])
            content = f"{message['content']}\n{written}" if message["content"] else written
            shaped.append({"role": "assistant", "content": content})
        elif told and message["role"] == "tool":
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if shaped[-1]["role"] == "user":
                shaped[-1]["content"] = f"{shaped[-1]['content']}\n{result}"
            else:
                shaped.append({"role": "user", "content": result})
        else:
            shaped.append(message)
    return shaped


def _text_arguments(messages: list[_Dict], empty: str | None) -> Iterator[_Dict]:
    """Give arguments as JSON text, and `empty` as the content of a message with calls only."""
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            functions = [{**call["function"], "arguments": _json(call["function"]["arguments"])} for call in calls]
            texts = [{**call, "function": function} for call, function in zip(calls, functions, strict=True)]
            yield {**message, "tool_calls": texts, "content": message["content"] or empty}
        else:
            yield message


def _thought_parts(messages: list[_Dict]) -> Iterator[_Dict]:
    """Make thoughts a part of the content."""
    for message in messages:
        if "reasoning_content" in message:
            parts: list[JsonValue] = [{"type": "thinking", "thinking": message["reasoning_content"]}]
            if message["content"]:
                parts.append({"type": "text", "text": message["content"]})
            yield {**message, "content": parts}
        else:
            yield message


def _reasoning(messages: list[_Dict]) -> Iterator[_Dict]:
    """Give thoughts by the name that Solar reads."""
    for message in messages:
        yield {**message, "reasoning": message["reasoning_content"]} if "reasoning_content" in message else message


SHAPES: dict[str, Callable[[list[_Dict]], list[_Dict]]] = {
    "HuggingFaceTB-SmolLM3-3B": lambda messages: _in_content(messages, _hermes, False),
    "LFM2-8B-A1B": lambda messages: _in_content(messages, _lfm, False),
    "LFM2.5-Instruct": lambda messages: _in_content(messages, _lfm, False),
    "ibm-granite-granite-3.3-2B-Instruct": lambda messages: _in_content(messages, _granite, False),
    "google-gemma-2-2b-it": lambda messages: _in_content(messages, _hermes, True),
    "llama-cpp-rwkv-world": lambda messages: _in_content(messages, _hermes, True),
    "microsoft-Phi-3.5-mini-instruct": lambda messages: _in_content(messages, _hermes, True),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": lambda messages: list(_text_arguments(messages, None)),
    "meetkai-functionary-medium-v3.2": lambda messages: list(_text_arguments(messages, "")),
    "mistralai-Ministral-3-14B-Reasoning-2512": lambda messages: list(_thought_parts(messages)),
    "upstage-Solar-Open-100B": lambda messages: list(_reasoning(messages)),
}
"""How our messages reach the templates that do not take Hugging Face's usual shape."""

OUR_OWN = {"llama-cpp-deepseek-r1", "meetkai-functionary-medium-v3.1"}
"""Where it is not the shape that differs, but what filters do."""


@pytest.mark.parametrize("name", SHAPES)
def test_a_listed_difference_is_that_of_the_shape(today: dict[str, ChatTemplate], name: str) -> None:
    """Given the messages in the shape that a template's authors meant, transformers renders the same text."""
    for conversation in documented()[name]:
        messages, tools = CONVERSATIONS[conversation]
        text = rendered(today[name], messages, tools, True)
        assert text == reference.render(today[name].source, SHAPES[name](as_dicts(messages)), tools)


def test_all_listed_differences_are_explained(today: dict[str, ChatTemplate]) -> None:
    """Each is one of shape, or one of the filters that docs/templates.md says are different."""
    assert set(documented()) == set(SHAPES) | OUR_OWN
    assert set().union(*documented().values()) <= set(CONVERSATIONS)
    for name in OUR_OWN:
        for conversation in documented()[name]:
            messages, tools = CONVERSATIONS[conversation]
            expected = reference.render(today[name].source, as_dicts(messages), tools)
            text = rendered(today[name], messages, tools, True)
            if isinstance(expected, Exception):
                assert "generator is not JSON serializable" in str(expected)
                assert text is not None
                assert '"get_weather"' in text
            else:
                assert text == expected.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">")


def _holds(text: str, value: str) -> bool:
    """Tell whether `value` is in `text`, as it is or as JSON, however it is broken into lines."""
    spellings = (value, _json(value)[1:-1], json.dumps(value)[1:-1])
    return any("".join(spelling.split()) in "".join(text.split()) for spelling in spellings)


@pytest.mark.parametrize("conversation", ["results", "parallel", "thoughts and calls", "unicode"])
def test_no_call_and_no_result_is_lost(today: dict[str, ChatTemplate], conversation: str) -> None:
    """Whatever the template: what was called with which arguments, and what came back, are there for the model."""
    messages, tools = CONVERSATIONS[conversation]
    refused = set()
    for name, template in today.items():
        text = rendered(template, messages, tools, True)
        if text is None:
            refused.add(name)
            continue
        for message in messages:
            for call in message.tool_calls:
                assert _holds(text, call.name), name
                assert _holds(text, str(call.arguments["city"])), name
            if message.role == "tool":
                assert _holds(text, message.content), name
    assert len(refused) <= 6, refused

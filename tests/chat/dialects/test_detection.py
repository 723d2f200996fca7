"""Which dialect a chat template has, and that what the template writes is what the dialect reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from localllm._json import JsonValue
from localllm.chat.dialects import dialect_of
from localllm.messages import ToolCall
from tests.chat import huggingface
from tests.chat.dialects.rows import CALLS, DIALECTS, TOOLS, plain, take

EXPECTED = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel-thinker",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed-oss",
    "Cohere2MoE": "command-a",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r7b",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm-4.7",
    "GigaChat3-10B-A1.8B": "gigachat",
    "GigaChat3.1-10B-A1.8B": "gigachat-3.1",
    "HuggingFaceTB-SmolLM3-3B": "generic",
    "Kimi-K2-Instruct": "kimi-k2",
    "Kimi-K2-Thinking": "kimi-k2",
    "Kimi-K3": "kimi-k3",
    "LFM2-8B-A1B": "lfm2",
    "LFM2.5-8B-A1B": "lfm2",
    "LFM2.5-Instruct": "lfm2",
    "MiMo-VL": "hermes",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax-m2",
    "MiniMax-M3": "minimax-m3",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen3-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen3-coder",
    "Qwen3.5-4B": "qwen3-coder",
    "Reka-Edge": "hermes",
    "Spark2.5": "glm-4.7",
    "StepFun3.5-Flash": "qwen3-coder",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek-r1",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek-r1",
    "deepseek-ai-DeepSeek-V3.1": "deepseek-v3.1",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "deepseek-ai-DeepSeek-V4-Flash-0731": "deepseek-v4",
    "fireworks-ai-llama-3-firefunction-v2": "firefunction",
    "google-gemma-2-2b-it": "generic",
    "google-gemma-4-31B-it": "gemma-4",
    "google-gemma-4-31B-it-interleaved": "gemma-4",
    "ibm-granite-granite-3.3-2B-Instruct": "granite-3",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "inclusionai-ling-3.0-flash": "ling",
    "llama-cpp-deepseek-r1": "deepseek-r1",
    "llama-cpp-rwkv-world": "generic",
    "meetkai-functionary-medium-v3.1": "functionary-3.1",
    "meetkai-functionary-medium-v3.2": "functionary-3.2",
    "meta-llama-Llama-3.1-8B-Instruct": "llama-3",
    "meta-llama-Llama-3.2-3B-Instruct": "llama-3",
    "meta-llama-Llama-3.3-70B-Instruct": "llama-3",
    "microsoft-Phi-3.5-mini-instruct": "generic",
    "mistralai-Ministral-3-14B-Reasoning-2512": "devstral",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral-nemo",
    "moonshotai-Kimi-K2": "kimi-k2",
    "muse-glimmer": "muse",
    "openai-gpt-oss-120b": "gpt-oss",
    "openbmb-MiniCPM5-1B": "minicpm",
    "poolside-Laguna-S-2.1": "glm-4.7",
    "poolside-Laguna-XS-2.1": "glm",
    "poolside-Laguna-XS.2": "glm",
    "tencent-Hy3": "hunyuan",
    "unsloth-Apriel-1.5": "apriel-thinker",
    "unsloth-mistral-Devstral-Small-2507": "devstral",
    "upstage-Solar-Open-100B": "solar",
}

WRITES_NO_CALLS = {
    "HuggingFaceTB-SmolLM3-3B": "writes no calls",
    "LFM2-8B-A1B": "writes no calls",
    "LFM2.5-Instruct": "writes no calls",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "leaves calls with content out",
    "google-gemma-2-2b-it": "knows no tools",
    "ibm-granite-granite-3.3-2B-Instruct": "writes no calls",
    "llama-cpp-rwkv-world": "knows no tools",
    "microsoft-Phi-3.5-mini-instruct": "knows no tools",
    "Kimi-K2-Instruct": "appends to a list, which the reference's sandbox refuses",
    "Kimi-K2-Thinking": "appends to a list, which the reference's sandbox refuses",
    "llama-cpp-deepseek-r1": "fails in the reference, for it maps a list lazily",
}
"""Templates whose calls the reference cannot show."""

_THOUGHTS_SHOWN = {"hermes", "qwen3-coder", "glm", "glm-4.7", "gpt-oss", "command-r7b", "kimi-k3", "gemma-4", "muse"}


def _render(source: str, *messages: dict[str, JsonValue], more: bool, **variables: JsonValue) -> str:
    tools = [tool.to_dict() for tool in TOOLS[:2]]
    given: dict[str, JsonValue] = {"tools": _described(tools), "functions": "[]", "datetime": "now", **variables}
    return huggingface.render(source, messages, add_generation_prompt=more, bos_token="<s>", eos_token="</s>", **given)


def _described(tools: list[dict[str, JsonValue]]) -> JsonValue:
    """Return the tools with what one of the templates cannot do without."""
    text = json.dumps(tools).replace(
        '"type": "', '"description": "d", "additionalProperties": {"type": "string"}, "type": "'
    )
    shown: JsonValue = json.loads(text)
    return shown


def _assistant(count: int, content: str, *, as_text: bool) -> dict[str, JsonValue]:
    calls: list[JsonValue] = [
        {
            "id": call.id,
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(dict(call.arguments)) if as_text else dict(call.arguments),
            },
        }
        for call in CALLS[:count]
    ]
    thought = {"reasoning_content": "Hm.", "thinking": "Hm.", "reasoning": "Hm."}
    return {"role": "assistant", "content": content, "tool_calls": calls, **thought}


_USER: dict[str, JsonValue] = {"role": "user", "content": "The weather?"}


def test_the_dialect_of_every_template_of_llama_cpp_s(templates: dict[str, str]) -> None:
    """By its source alone."""
    assert {name: dialect_of(source).name for name, source in templates.items()} == EXPECTED


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - set(WRITES_NO_CALLS)))
def test_what_a_template_writes_its_dialect_reads(name: str, templates: dict[str, str]) -> None:
    """Two calls (one, where the family makes one) and a thought, from the history, as the reference renders them."""
    source = templates[name]
    dialect = dialect_of(source)
    count = 2 if dialect.syntax.calls.parallel else 1
    content = "" if dialect.name in ("gpt-oss", "nemotron") else "Well."
    as_text = dialect.name == "functionary-3.2"
    asked = _render(source, _USER, more=True, enable_thinking=True)
    told = _render(source, _USER, _assistant(count, content, as_text=as_text), more=False, enable_thinking=True)
    same = next((at for at, pair in enumerate(zip(asked, told, strict=False)) if pair[0] != pair[1]), len(asked))
    begun = asked[:same]
    if dialect.name == "nemotron":  # the prompt begins a thought, which the history does not have
        begun = begun.removesuffix("<")
    taken = take(dialect.parser(TOOLS, in_thought=dialect.starts_in_thought(begun)), told[len(begun) :])
    assert taken.calls == plain(CALLS[:count])
    if dialect.name in _THOUGHTS_SHOWN and "Hm." in told:
        assert taken.thought == "Hm."


@pytest.mark.parametrize(
    ("name", "variables", "begun"),
    [
        ("deepseek-ai-DeepSeek-R1-Distill-Llama-8B", {}, True),
        ("deepseek-ai-DeepSeek-V3.1", {"thinking": True}, True),
        ("deepseek-ai-DeepSeek-V3.1", {"thinking": False}, False),
        ("Qwen3.5-4B", {}, True),
        ("Qwen-Qwen3-0.6B", {}, False),
        ("Apriel-1.6-15b-Thinker-fixed", {}, True),
        ("Kimi-K3", {}, True),
        ("Cohere2MoE", {}, True),
        ("openai-gpt-oss-120b", {}, False),
        ("GLM-4.7-Flash", {}, True),
        ("meta-llama-Llama-3.1-8B-Instruct", {}, False),
    ],
)
def test_a_prompt_that_begins_a_thought_is_seen(
    name: str, variables: dict[str, JsonValue], begun: bool, templates: dict[str, str]
) -> None:
    """By the prompt's end."""
    prompt = _render(templates[name], _USER, more=True, **variables)
    assert dialect_of(templates[name]).starts_in_thought(prompt) is begun


def test_the_switch_for_thoughts_is_one_that_the_template_knows(templates: dict[str, str]) -> None:
    """Wherever a prompt begins a thought and there is a switch, turning it off has the prompt begin none."""
    switched = []
    for name, source in templates.items():
        dialect = dialect_of(source)
        if name in ("CohereForAI-c4ai-command-r-plus-tool_use", "llama-cpp-deepseek-r1"):
            continue
        prompt = _render(source, _USER, more=True)
        off = _render(source, _USER, more=True, **dialect.thought_switch)
        assert not (dialect.thought_switch and dialect.starts_in_thought(off)), name
        if dialect.starts_in_thought(prompt) and dialect.thought_switch:
            switched.append(name)
    assert {"Qwen3.5-4B", "GLM-4.7-Flash", "Kimi-K3", "Cohere2MoE", "Spark2.5"} <= set(switched)


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        ("Qwen-Qwen3-0.6B", {"enable_thinking": False}),
        ("deepseek-ai-DeepSeek-V3.1", {"enable_thinking": False, "thinking": False}),
        ("ByteDance-Seed-OSS", {"thinking_budget": 0}),
        ("MiniMax-M3", {"thinking_mode": "disabled"}),
        ("tencent-Hy3", {"reasoning_effort": "no_think"}),
        ("upstage-Solar-Open-100B", {"reasoning_effort": "minimal"}),
        ("openai-gpt-oss-120b", {}),
        ("Qwen3-Coder", {}),
    ],
)
def test_the_switches_of_some_templates(name: str, switch: dict[str, JsonValue], templates: dict[str, str]) -> None:
    """As their authors named them; gpt-oss can be told to think less, but not to think nothing."""
    assert dialect_of(templates[name]).thought_switch == switch


def test_templates_take_tools_or_instructions(templates: dict[str, str]) -> None:
    """One of both tells the model of tools, never both."""
    for source in templates.values():
        dialect = dialect_of(source)
        assert (dialect.template_tools(TOOLS) is None) == bool(dialect.instructions(TOOLS))
        assert dialect.template_tools(()) is None
    taken = dialect_of(templates["Qwen3-Coder"]).template_tools(TOOLS)
    assert taken == [tool.to_dict() for tool in TOOLS]


def test_instructions_show_the_tools_and_a_call_as_the_family_writes_it() -> None:
    """And say when to call."""
    dialect = dialect_of(None)
    text = dialect.instructions(TOOLS)
    assert all(json.dumps(tool.to_dict()) in text for tool in TOOLS)
    assert '<tool_call>\n{"name": "tool_name", "arguments": {"argument": "value"}}\n</tool_call>' in text
    assert "at least one call" in dialect.instructions(TOOLS, "required")
    assert "the tool add" in dialect.instructions(TOOLS, "add")
    assert dialect.instructions(TOOLS, "none") == ""
    assert dialect.instructions(()) == ""


@pytest.mark.parametrize("source", ["", "{% broken", "{{ " + "(" * 5000, "{% include 'x' %}", "x" * 2_000_000])
def test_a_template_that_does_not_parse_has_a_dialect_all_the_same(source: str) -> None:
    """Whoever renders it says what is wrong with it."""
    assert dialect_of(source).name == "generic"
    assert dialect_of(source).thought_switch == {}


def test_signs_of_control_tokens_are_told(templates: dict[str, str]) -> None:
    """The engine spells these out in the text that a parser is given."""
    assert {"<tool_call>", "</tool_call>", "<think>", "</think>"} == set(dialect_of(None).markers)
    harmony = dialect_of(templates["openai-gpt-oss-120b"]).markers
    assert {"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"} <= set(
        harmony
    )
    assert {"[TOOL_CALLS]", "[ARGS]", "[THINK]"} <= set(
        dialect_of(templates["unsloth-mistral-Devstral-Small-2507"]).markers
    )
    assert {'<|"|>', "<|tool_call>", "<tool_call|>"} <= set(dialect_of(templates["google-gemma-4-31B-it"]).markers)
    assert "｜DSML｜" in dialect_of(templates["deepseek-ai-DeepSeek-V4"]).markers
    assert "]<]minimax[>[" in dialect_of(templates["MiniMax-M3"]).markers


def test_the_table_in_the_docs_is_the_table() -> None:
    """Every family is there, with the marks of its thoughts and a call as it writes it."""
    page = Path(__file__).parents[3].joinpath("docs", "tools-dialects.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    for name, dialect in DIALECTS.items():
        call = ToolCall("f", {"a": "x"}, "functions.f:0" if dialect.syntax.calls.header_is_id else "abcdefghi")
        thought = dialect.syntax.thought
        for shown in (dialect.write_calls([call]), thought.open if thought else "", thought.close if thought else ""):
            assert shown.replace("|", "\\|").replace("\n", "⏎") in rows[name]

"""Replies as models of each family write them, and what they mean."""

from __future__ import annotations

from tests.chat.dialects.outputs_base import NOW, ROME, SUM, TWO_DAYS, Output, call
from tests.chat.dialects.outputs_more import MORE

_HERMES_ROME = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
_HERMES_SUM = '<tool_call>\n{"name": "add", "arguments": {"numbers": [1, 2.5]}}\n</tool_call>'

OUTPUTS: tuple[Output, ...] = (
    # Hermes, Qwen 2.5 and 3, Granite 4, and everybody whose template knows no tools
    Output("hermes", "Hello.\n\nHow are you?\n", "Hello.\n\nHow are you?\n"),
    Output("hermes", _HERMES_ROME, calls=(ROME,)),
    Output("hermes", f"Let me see.\n{_HERMES_ROME}\n{_HERMES_SUM}\n", "Let me see.", (ROME, SUM)),
    Output("hermes", f"<think>\nHm.\n</think>\n\n{_HERMES_ROME}", calls=(ROME,), thought="Hm."),
    Output("hermes", "Hm.\n</think>\n\nHello.", "Hello.", thought="Hm.", in_thought=True),
    Output("hermes", "<think>\n\n</think>\n\nHello.", "Hello."),
    Output("hermes", "The tag <think> begins a thought.", "The tag <think> begins a thought."),
    Output("hermes", '<tool_call>{"arguments": {"city": "Rome"}, "name": "get_weather"}</tool_call>', calls=(ROME,)),
    Output("hermes", '<tool_call>{"name": "now"}</tool_call>', calls=(NOW,)),
    Output("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', calls=(NOW,)),
    Output(
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        calls=(ROME,),
    ),
    Output("hermes", '<tool_call>\n{"name": "get_weather", "parameters": {"city": "Rome"}}', calls=(ROME,)),
    Output("hermes", f"{_HERMES_ROME}\nDone.", "Done.", (ROME,)),
    Output("hermes", f"First,\n{_HERMES_ROME}\nthen.", "First,\nthen.", (ROME,)),
    Output(
        "hermes",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        calls=(call("unknown"),),
    ),
    Output("generic", f"Sure.\n{_HERMES_SUM}", "Sure.", (SUM,)),
    # Qwen3-Coder, Qwen 3.5, Nemotron 3, Step
    Output(
        "qwen3-coder",
        "I'll look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n"
        "</parameter>\n</function>\n</tool_call>",
        "I'll look.",
        (TWO_DAYS,),
    ),
    Output(
        "qwen3-coder",
        "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
        calls=(ROME,),
    ),
    Output(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n\n  if a < b:\n    </b>\n\n</parameter>\n</function>"
        "\n</tool_call>\n<tool_call>\n<function=add>\n<parameter=numbers>\n[1, 2.5]\n</parameter>\n</function>\n"
        "</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        calls=(call("get_weather", city="\n  if a < b:\n    </b>\n"), SUM, NOW),
    ),
    Output(
        "qwen3-coder",
        "Hm.\n</think>\n\n<tool_call>\n<function=get_weather>\n<parameter=options>\n{'metric': True}\n</parameter>\n"
        "<parameter=city>\n12\n</parameter>\n</function>\n</tool_call>",
        calls=(call("get_weather", options={"metric": True}, city="12"),),
        thought="Hm.",
        in_thought=True,
    ),
    Output(
        "seed-oss",
        "<seed:think>Hm.\n</seed:think>\nI'll see.\n<seed:tool_call>\n<function=get_weather>\n"
        "<parameter=city>Rome</parameter>\n<parameter=days>2</parameter>\n</function>\n</seed:tool_call>",
        "I'll see.",
        (TWO_DAYS,),
        thought="Hm.",
    ),
    Output(
        "minicpm",
        '<function name="get_weather"><param name="city"><![CDATA[Rome]]></param><param name="days">2</param>'
        '</function>\n<function name="now"></function>',
        calls=(TWO_DAYS, NOW),
    ),
    # Llama
    Output("llama-3", '{"name": "get_weather", "parameters": {"city": "Rome"}}', calls=(ROME,)),
    Output("llama-3", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Rome"}}', calls=(ROME,)),
    Output("llama-3", '{"type": "function", "name": "get_weather", "parameters": {"city": "Rome"}}', calls=(ROME,)),
    Output(
        "llama-3",
        '{"name": "get_weather", "parameters": {"city": "Rome"}}; {"name": "add", "parameters": {"numbers": [1, 2.5]}}',
        calls=(ROME, SUM),
    ),
    Output("llama-3", '<|python_tag|>brave_search.call(query="x")', '<|python_tag|>brave_search.call(query="x")'),
    Output("llama-3", '{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}'),
    Output("llama-3", 'See: {"name": "now", "parameters": {}}', 'See: {"name": "now", "parameters": {}}'),
    Output("llama-3", '{"answer": 42}', '{"answer": 42}'),
    Output("functionary-3.1", 'Look:<function=get_weather>{"city": "Rome"}</function>', "Look:", (ROME,)),
    Output("functionary-3.2", 'get_weather\n{"city": "Rome"}>>>add\n{"numbers": [1, 2.5]}', calls=(ROME, SUM)),
    Output("functionary-3.2", "all\nHello >>> you.", "Hello >>> you."),
    Output("functionary-3.2", "all\nWell.>>>now\n{}", "Well.", (NOW,)),
    Output(
        "firefunction",
        ' functools[{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]',
        calls=(ROME, NOW),
    ),
    # Mistral
    Output(
        "mistral-nemo",
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Rome"}, "id": "abcdefghi"}]',
        calls=(ROME,),
    ),
    Output(
        "mistral-nemo",
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}}, '
        '{"name": "add", "arguments": {"numbers": [1, 2.5]}}]',
        calls=(ROME, SUM),
    ),
    Output(
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Rome"}[TOOL_CALLS]now[CALL_ID]a23456789[ARGS]{}',
        calls=(ROME, NOW),
    ),
    Output("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}', calls=(ROME,)),
    Output(
        "devstral",
        '[THINK]Hm.[/THINK]Well.[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}'
        '[TOOL_CALLS]add[ARGS]{"numbers": [1, 2.5]}',
        "Well.",
        (ROME, SUM),
        thought="Hm.",
    ),
    # Gemma
    Output(
        "gemma-4",
        '<|channel>thought\nHm.\n<channel|><|tool_call>call:get_weather{city:<|"|>Rome<|"|>,days:2}<tool_call|>',
        calls=(TWO_DAYS,),
        thought="Hm.",
    ),
    Output(
        "gemma-4",
        "<|tool_call>call:add{numbers:[1,2.5]}<tool_call|><|tool_call>call:now{}<tool_call|>",
        calls=(SUM, NOW),
    ),
    Output(
        "gemma-4",
        '<|tool_call>call:get_weather{city:<|"|>{"a": "b"}, c:[]<|"|>,options:{metric:true}}<tool_call|>',
        calls=(call("get_weather", city='{"a": "b"}, c:[]', options={"metric": True}),),
    ),
    Output(
        "function-gemma",
        "<start_function_call>call:get_weather{city:<escape>Rome<escape>}<end_function_call>",
        calls=(ROME,),
    ),
    # gpt-oss and its like
    Output("gpt-oss", "<|channel|>final<|message|>Hello.<|return|>", "Hello."),
    Output(
        "gpt-oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.",
        "Hello.",
        thought="Hm.",
    ),
    Output(
        "gpt-oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Rome"}<|call|>',
        calls=(ROME,),
        thought="Hm.",
    ),
    Output(
        "gpt-oss",
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Rome"}<|call|>',
        calls=(ROME,),
    ),
    Output(
        "gpt-oss",
        "<|channel|>commentary<|message|>I'll look.<|end|><|start|>assistant to=functions.get_weather"
        '<|channel|>analysis<|message|>{"city": "Rome"}',
        "I'll look.",
        (ROME,),
    ),
    Output(
        "gpt-oss",
        "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|call|>",
        "<|channel|>commentary to=python <|constrain|>code<|message|>print(1)",
    ),
    Output("gpt-oss", "Hello.", "Hello."),
    Output("gpt-oss", "<|channel|>final <|constrain|>json<|message|>{}", "{}"),
    Output(
        "muse",
        " to=self<|message|>Hm.<|eom|><|start|>assistant to=get_weather<|message|><atem:function_calls>\n"
        '<atem:invoke name="get_weather">\n<atem:parameter name="city">Rome</atem:parameter>\n</atem:invoke>\n'
        "</atem:function_calls><|eot|>",
        calls=(ROME,),
        thought="Hm.",
    ),
    Output("muse", " to=user<|message|>Hello.<|eot|>", "Hello."),
    *MORE,
)

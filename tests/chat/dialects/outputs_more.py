"""More replies as models of each family write them; see `outputs`."""

from __future__ import annotations

from tests.chat.dialects.outputs_base import NOW, ROME, SUM, TWO_DAYS, Output, call

MORE: tuple[Output, ...] = (
    # DeepSeek
    Output(
        "deepseek-r1",
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Rome"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls=(ROME, NOW),
        thought="Hm.",
        in_thought=True,
    ),
    Output(
        "deepseek-v3.1",
        'Well.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜>'
        '<｜tool▁call▁begin｜>add<｜tool▁sep｜>{"numbers": [1, 2.5]}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "Well.",
        (ROME, SUM),
    ),
    Output("deepseek-v3.1", "Hm.</think>Hello.", "Hello.", thought="Hm.", in_thought=True),
    Output("deepseek", "Hm.\n</think>\n\nHello.", "Hello.", thought="Hm.", in_thought=True),
    Output(
        "deepseek-v3.2",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">'
        'Rome</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        calls=(TWO_DAYS,),
    ),
    Output(
        "deepseek-v4",
        'Well.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
        "Well.",
        (NOW,),
    ),
    # Granite 3, Phi-4
    Output(
        "granite-3",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "now", "arguments": {}}]',
        calls=(ROME, NOW),
    ),
    Output("granite-3", "<think>Hm.</think><response>Hello.</response>", "Hello.", thought="Hm."),
    Output(
        "phi-4",
        '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}]<|/tool_call|>',
        calls=(ROME,),
    ),
    # Command
    Output(
        "command-r7b",
        '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Rome"}},\n    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n'
        "]<|END_ACTION|>",
        calls=(ROME, NOW),
        thought="Hm.",
    ),
    Output("command-r7b", "<|START_RESPONSE|>Hello.<|END_RESPONSE|>", "Hello."),
    Output(
        "command-a", "Hm.<|END_THINKING|><|START_TEXT|>Hello.<|END_TEXT|>", "Hello.", thought="Hm.", in_thought=True
    ),
    Output(
        "command-a",
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Rome"}}]'
        "<|END_ACTION|>",
        calls=(ROME,),
    ),
    Output(
        "command-r",
        'Action:\n```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {\n'
        '            "city": "Rome"\n        }\n    }\n]```\n',
        calls=(ROME,),
    ),
    # GLM and its like
    Output(
        "glm",
        "\n<think>Hm.</think>\nWell.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
        "Well.",
        (TWO_DAYS, NOW),
        thought="Hm.",
    ),
    Output(
        "glm-4.7",
        "Hm.</think><tool_call>add<arg_key>numbers</arg_key><arg_value>[1, 2.5]</arg_value></tool_call>",
        calls=(SUM,),
        thought="Hm.",
        in_thought=True,
    ),
    Output("glm-4.7", "</think>Hello.", "Hello."),
    Output(
        "ling",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
        calls=(ROME,),
    ),
    Output(
        "hunyuan",
        "<think:opensource>Hm.</think:opensource><tool_calls:opensource>\n<tool_call:opensource>get_weather"
        "<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Rome"
        "</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
        calls=(ROME,),
        thought="Hm.",
    ),
    # Kimi
    Output(
        "kimi-k2",
        "Well.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Rome"}<|tool_call_end|><|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>'
        '{"numbers": [1, 2.5]}<|tool_call_end|><|tool_calls_section_end|>',
        "Well.",
        (ROME, SUM),
    ),
    Output(
        "kimi-k2",
        "<think>Hm. <|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}"
        "<|tool_call_end|><|tool_calls_section_end|>",
        calls=(NOW,),
        thought="Hm.",
    ),
    Output(
        "kimi-k3",
        "Hm.<|close|>think<|sep|><|open|>response<|sep|>Well.<|close|>response<|sep|><|open|>tools<|sep|><|open|>call "
        'tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>Rome<|close|>'
        'argument<|sep|><|open|>argument key="days" type="number"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|>'
        '<|open|>call tool="now" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>',
        "Well.",
        (TWO_DAYS, NOW),
        thought="Hm.",
        in_thought=True,
    ),
    # MiniMax
    Output(
        "minimax-m1",
        '<tool_calls>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n{"name": "now", "arguments": {}}\n'
        "</tool_calls>",
        calls=(ROME, NOW),
    ),
    Output(
        "minimax-m2",
        'Hm.\n</think>\n\n<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Rome</parameter>\n'
        '<parameter name="days">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        calls=(TWO_DAYS, NOW),
        thought="Hm.",
        in_thought=True,
    ),
    Output(
        "minimax-m3",
        ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Rome]<]minimax[>[</city>'
        "]<]minimax[>[<options>]<]minimax[>[<metric>true]<]minimax[>[</metric>]<]minimax[>[</options>]<]minimax[>["
        '</invoke>\n]<]minimax[>[<invoke name="add">]<]minimax[>[<numbers>]<]minimax[>[<item>1]<]minimax[>[</item>'
        "]<]minimax[>[<item>2.5]<]minimax[>[</item>]<]minimax[>[</numbers>]<]minimax[>[</invoke>\n]<]minimax[>["
        "</tool_call>",
        calls=(call("get_weather", city="Rome", options={"metric": True}), SUM),
    ),
    # others
    Output(
        "apertus",
        '<|inner_prefix|>Hm.<|inner_suffix|><|tools_prefix|>[{"get_weather": {"city": "Rome"}}, {"now": {}}]'
        "<|tools_suffix|>",
        calls=(ROME, NOW),
        thought="Hm.",
    ),
    Output(
        "apriel-thinker",
        'Hm.\n[BEGIN FINAL RESPONSE]\n<tool_calls>[{"name": "get_weather", "arguments": {"city": "Rome"}}]'
        "</tool_calls>",
        calls=(ROME,),
        thought="Hm.",
        in_thought=True,
    ),
    Output(
        "apriel-thinker",
        "Here are my reasoning steps:\nHm.\n[BEGIN FINAL RESPONSE]\nHello.\n[END FINAL RESPONSE]",
        "Hello.",
        thought="Hm.",
    ),
    Output(
        "nemotron",
        '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Rome"}}]</TOOLCALL>',
        calls=(ROME,),
    ),
    Output(
        "gigachat",
        'Well.<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", "arguments": {"city": "Rome"}}',
        "Well.",
        (ROME,),
    ),
    Output("gigachat-3.1", '<|function_call|>{"name": "now", "arguments": {}}', calls=(NOW,)),
    Output(
        "lfm2",
        "<|tool_call_start|>[get_weather(city='Rome', days=2), add(numbers=[1, 2.5]), now()]<|tool_call_end|>Done.",
        "Done.",
        (TWO_DAYS, SUM, NOW),
    ),
    Output(
        "lfm2",
        '<|tool_call_start|>[get_weather(city="It\'s (a) [\\"t]\\n", options={"metric": True})]<|tool_call_end|>',
        calls=(("get_weather", {"city": "It's (a) [\"t]\n", "options": {"metric": True}}),),
    ),
    Output(
        "solar",
        "<|think|>Hm.<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>abcdefghij<|tool_call:name|>get_weather"
        '<|tool_call:args|>{"city": "Rome"}<|tool_call:end|><|calls|>',
        calls=(ROME,),
        thought="Hm.",
    ),
    Output("solar", "<|content|>Hello.", "Hello."),
)

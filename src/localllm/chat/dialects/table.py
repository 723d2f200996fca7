"""The table of dialects: what each family of models writes, and how its chat template is known.

Facts are from the templates themselves (llama.cpp's source package has 70 of them) and from model cards. The first row
whose signs all stand in a template's source is the template's; `GENERIC` is everybody else's.
"""

from __future__ import annotations

from attrs import evolve

from localllm.chat.dialects import forms
from localllm.chat.dialects.syntax import CallSyntax, DialectSyntax, ThoughtSyntax

GENERIC = DialectSyntax(name="generic", thought=forms.THINK, calls=forms.HERMES)
"""For templates that know no tools: calls as the Hermes models write them, which most models have seen."""

HERMES = DialectSyntax(name="hermes", thought=forms.THINK, calls=forms.HERMES)

TABLE: tuple[tuple[tuple[str, ...], DialectSyntax], ...] = (
    (
        ("<|channel|>analysis<|message|>", "<|start|>assistant"),
        DialectSyntax(
            name="gpt-oss",
            thought=ThoughtSyntax(
                open="<|channel|>analysis<|message|>",
                close="<|end|>",
                lead="",
                tail="",
                gap="<|start|>assistant",
                anywhere=True,
            ),
            calls=CallSyntax(
                form="named",
                open="<|channel|>commentary to=functions.",
                name_end=" <|constrain|>json<|message|>",
                close="<|call|>",
                repeat="call",
                parallel=False,
            ),
            text_open="<|channel|>final<|message|>",
            virtual="<|start|>assistant",
            channels=True,
        ),
    ),
    (
        ("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        DialectSyntax(
            name="kimi-k2",
            thought=evolve(forms.TIGHT, ended_by_calls=True),
            calls=CallSyntax(
                form="named",
                section_open="<|tool_calls_section_begin|>",
                section_close="<|tool_calls_section_end|>",
                section_optional=True,
                open="<|tool_call_begin|>",
                header="functions.{name}:{index}",
                header_is_id=True,
                new_id="functions.{name}:{number}",
                name_end="<|tool_call_argument_begin|>",
                close="<|tool_call_end|>",
                repeat="call",
            ),
        ),
    ),
    (
        ("<|open|>", "<|close|>", "<|end_of_msg|>"),
        DialectSyntax(
            name="kimi-k3",
            thought=evolve(forms.TIGHT, open="<|open|>think<|sep|>", close="<|close|>think<|sep|>"),
            calls=CallSyntax(
                form="tagged",
                section_open="<|open|>tools<|sep|>",
                section_close="<|close|>tools<|sep|>",
                open='<|open|>call tool="',
                name_end='" index="{index}"<|sep|>',
                param_open='<|open|>argument key="',
                param_attributes='" type="{type}"',
                param_name_end="<|sep|>",
                param_close="<|close|>argument<|sep|>",
                close="<|close|>call<|sep|>",
                repeat="call",
            ),
            text_open="<|open|>response<|sep|>",
            text_close="<|close|>response<|sep|>",
            silent=("<|close|>message<|sep|>",),
        ),
    ),
    (
        ("<|START_TEXT|>", "<|START_ACTION|>"),
        DialectSyntax(
            name="command-a",
            thought=forms.COHERE_THOUGHT,
            calls=forms.COHERE,
            text_open="<|START_TEXT|>",
            text_close="<|END_TEXT|>",
        ),
    ),
    (
        ("<|START_ACTION|>",),
        DialectSyntax(
            name="command-r7b",
            thought=forms.COHERE_THOUGHT,
            calls=forms.COHERE,
            text_open="<|START_RESPONSE|>",
            text_close="<|END_RESPONSE|>",
        ),
    ),
    (
        ("Action:", '"tool_name"', "<|CHATBOT_TOKEN|>"),
        DialectSyntax(
            name="command-r",
            calls=evolve(
                forms.listed("Action:\n```json", "\n```", between=",\n"),
                section_open="Action:\n```json\n[\n",
                section_close="\n]```",
                name_key="tool_name",
                arguments_key="parameters",
            ),
        ),
    ),
    (
        ("DSML", "dsml_token", "function_calls"),
        DialectSyntax(name="deepseek-v3.2", thought=forms.TIGHT, calls=forms.DSML),
    ),
    (
        ("DSML", "dsml_token"),
        DialectSyntax(
            name="deepseek-v4",
            thought=forms.TIGHT,
            calls=evolve(forms.DSML, section_open="<｜DSML｜tool_calls>\n", section_close="</｜DSML｜tool_calls>"),
        ),
    ),
    (
        ("<｜tool▁call▁begin｜>", "```json"),
        DialectSyntax(
            name="deepseek-r1",
            thought=forms.THINK,
            calls=evolve(
                forms.DEEPSEEK,
                open="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                name_end="\n```json\n",
                close="\n```<｜tool▁call▁end｜>",
                between="\n",
            ),
        ),
    ),
    (("<｜tool▁call▁begin｜>",), DialectSyntax(name="deepseek-v3.1", thought=forms.TIGHT, calls=forms.DEEPSEEK)),
    (("<｜Assistant｜>", "<think>"), DialectSyntax(name="deepseek", thought=forms.THINK, calls=forms.HERMES)),
    (
        ("<seed:tool_call>",),
        DialectSyntax(
            name="seed-oss",
            thought=ThoughtSyntax(open="<seed:think>", close="</seed:think>", lead="", tail="", gap="\n"),
            calls=evolve(
                forms.QWEN_XML,
                section_open="<seed:tool_call>\n",
                section_close="\n</seed:tool_call>",
                param_name_end=">",
                param_close="</parameter>\n",
            ),
        ),
    ),
    (("<minimax:tool_call>",), DialectSyntax(name="minimax-m2", thought=forms.THINK, calls=forms.INVOKE)),
    (
        ("]<]minimax[>[", "<mm:think>"),
        DialectSyntax(
            name="minimax-m3",
            thought=evolve(forms.TIGHT, open="<mm:think>", close="</mm:think>"),
            calls=CallSyntax(
                form="nested",
                section_open="]<]minimax[>[<tool_call>\n",
                section_close="]<]minimax[>[</tool_call>",
                open=']<]minimax[>[<invoke name="',
                name_end='">',
                close="]<]minimax[>[</invoke>\n",
                namespace="]<]minimax[>[",
                repeat="call",
            ),
        ),
    ),
    (
        ("<atem:function_calls>", "<|eom|>"),
        DialectSyntax(
            name="muse",
            thought=ThoughtSyntax(
                open=" to=self<|message|>", close="<|eom|>", lead="", tail="", gap="<|start|>assistant", anywhere=True
            ),
            calls=evolve(
                forms.INVOKE,
                lead=" to={name}<|message|>",
                section_open="<atem:function_calls>\n",
                section_close="</atem:function_calls>",
                between="<|eom|><|start|>assistant",
                repeat="section",
                open='<atem:invoke name="',
                param_open='<atem:parameter name="',
                param_close="</atem:parameter>\n",
                close="</atem:invoke>\n",
            ),
            text_open=" to=user<|message|>",
            virtual="<|start|>assistant",
            channels=True,
        ),
    ),
    (
        ("toolsep_token", "argkey_begin_token", ":opensource"),
        DialectSyntax(
            name="hunyuan",
            thought=evolve(forms.TIGHT, open="<think:opensource>", close="</think:opensource>"),
            calls=CallSyntax(
                form="tagged",
                section_open="<tool_calls:opensource>\n",
                section_close="</tool_calls:opensource>",
                open="<tool_call:opensource>",
                name_end="<tool_sep:opensource>\n",
                param_open="<arg_key:opensource>",
                param_name_end="</arg_key:opensource>\n<arg_value:opensource>",
                param_close="</arg_value:opensource>\n",
                close="</tool_call:opensource>\n",
                repeat="call",
            ),
        ),
    ),
    (("<role>ASSISTANT</role>", "<arg_key>"), DialectSyntax(name="ling", thought=forms.TIGHT, calls=forms.GLM)),
    (("<arg_key>", "</arg_key>\\n"), DialectSyntax(name="glm", thought=forms.LINE, calls=forms.GLM)),
    (("<arg_key>", "</arg_key>\n<arg_value>"), DialectSyntax(name="glm", thought=forms.LINE, calls=forms.GLM)),
    (("<arg_key>",), DialectSyntax(name="glm-4.7", thought=forms.TIGHT, calls=forms.GLM_TIGHT)),
    (("<function=", "<parameter="), DialectSyntax(name="qwen3-coder", thought=forms.THINK, calls=forms.QWEN_XML)),
    (
        ('<function name="', '<param name="'),
        DialectSyntax(
            name="minicpm",
            thought=forms.THINK,
            calls=CallSyntax(
                form="tagged",
                open='<function name="',
                name_end='">',
                param_open='<param name="',
                param_attributes='"',
                param_name_end=">",
                param_close="</param>",
                close="</function>",
                between="\n",
                repeat="call",
            ),
        ),
    ),
    (
        (">>>all", ">>>${recipient}"),
        DialectSyntax(
            name="functionary-3.2",
            calls=CallSyntax(form="named", open=">>>", name_end="\n", repeat="call"),
            text_open=">>>all\n",
            virtual=">>>",
        ),
    ),
    (
        ("<function=", "</function>"),
        DialectSyntax(
            name="functionary-3.1",
            calls=CallSyntax(form="named", open="<function=", name_end=">", close="</function>", repeat="call"),
        ),
    ),
    (
        ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        DialectSyntax(
            name="mistral", thought=forms.BRACKETS, calls=evolve(forms.MISTRAL, header="{name}[CALL_ID]{id}")
        ),
    ),
    (("[TOOL_CALLS]", "[ARGS]"), DialectSyntax(name="devstral", thought=forms.BRACKETS, calls=forms.MISTRAL)),
    (
        ("[TOOL_CALLS]",),
        DialectSyntax(
            name="mistral-nemo", thought=forms.BRACKETS, calls=evolve(forms.listed("[TOOL_CALLS]", ""), id_key="id")
        ),
    ),
    (
        ("<|tool_call>call:", "<|channel>thought"),
        DialectSyntax(
            name="gemma-4",
            thought=ThoughtSyntax(open="<|channel>thought", close="<channel|>", gap="", anywhere=True),
            calls=forms.GEMMA,
        ),
    ),
    (
        ("<start_function_call>",),
        DialectSyntax(
            name="function-gemma",
            calls=evolve(
                forms.GEMMA, open="<start_function_call>call:", close="<end_function_call>", quotes="<escape>"
            ),
        ),
    ),
    (
        ("<|tool_calls|>", "<|tool_call:begin|>"),
        DialectSyntax(
            name="solar",
            thought=ThoughtSyntax(open="<|think|>", close="<|end|>", lead="", tail="", gap="<|begin|>assistant"),
            calls=CallSyntax(
                form="named",
                section_open="<|tool_calls|>",
                section_close="<|calls|>",
                open="<|tool_call:begin|>",
                header="{id}<|tool_call:name|>{name}",
                name_end="<|tool_call:args|>",
                close="<|tool_call:end|>",
                repeat="call",
            ),
            text_open="<|content|>",
            silent=("<|begin|>assistant",),
        ),
    ),
    (
        ("<|tools_prefix|>",),
        DialectSyntax(
            name="apertus",
            thought=evolve(forms.TIGHT, open="<|inner_prefix|>", close="<|inner_suffix|>"),
            calls=forms.listed("<|tools_prefix|>", "<|tools_suffix|>", form="keyed"),
        ),
    ),
    (
        ("[BEGIN FINAL RESPONSE]",),
        DialectSyntax(
            name="apriel-thinker",
            thought=ThoughtSyntax(open="Here are my reasoning steps:", close="[BEGIN FINAL RESPONSE]", gap="\n"),
            calls=forms.listed("<tool_calls>", "</tool_calls>"),
            silent=("[END FINAL RESPONSE]",),
        ),
    ),
    (
        ("<TOOLCALL>",),
        DialectSyntax(name="nemotron", thought=forms.THINK, calls=forms.listed("<TOOLCALL>", "</TOOLCALL>")),
    ),
    (
        ("<tool_calls>", "<beginning_of_sentence>"),
        DialectSyntax(
            name="minimax-m1",
            thought=forms.THINK,
            calls=CallSyntax(
                form="object",
                section_open="<tool_calls>\n",
                section_close="\n</tool_calls>",
                between="\n",
                repeat="call",
            ),
        ),
    ),
    (
        ("<|role_sep|>", "<|function_call|>"),
        DialectSyntax(
            name="gigachat-3.1", calls=CallSyntax(form="object", section_open="<|function_call|>", parallel=False)
        ),
    ),
    (
        ("<|role_sep|>", "<|message_sep|>"),
        DialectSyntax(
            name="gigachat",
            calls=CallSyntax(
                form="object", section_open="<|message_sep|>\n\nfunction call<|role_sep|>\n", parallel=False
            ),
        ),
    ),
    (
        ("functools[",),
        DialectSyntax(name="firefunction", calls=evolve(forms.listed("functools", ""), section_open="functools[")),
    ),
    (("<|tool_call_start|>",), DialectSyntax(name="lfm2", thought=forms.TIGHT, calls=forms.LFM)),
    (("<|tool_list_start|>",), DialectSyntax(name="lfm2", thought=forms.TIGHT, calls=forms.LFM)),
    (("keep_past_thinking",), DialectSyntax(name="lfm2", thought=forms.TIGHT, calls=forms.LFM)),
    (("<tool_call>",), HERMES),
    (
        ("<|tool_call|>", "<|start_of_role|>"),
        DialectSyntax(
            name="granite-3",
            thought=forms.THINK,
            calls=forms.listed("<|tool_call|>", ""),
            silent=("<response>", "</response>"),
        ),
    ),
    (
        ("<|tool|>", "<|/tool|>"),
        DialectSyntax(name="phi-4", thought=forms.THINK, calls=forms.listed("<|tool_call|>", "<|/tool_call|>")),
    ),
    (
        ("<|python_tag|>", "<|eot_id|>"),
        DialectSyntax(name="llama-3", calls=forms.LLAMA),
    ),
    (
        ('"parameters": ', "<|eot_id|>"),
        DialectSyntax(name="llama-3", calls=forms.LLAMA),
    ),
)

"""Forms of thoughts and calls that several families share, or vary a little."""

from __future__ import annotations

from attrs import evolve

from localllm.chat.dialects.syntax import CallSyntax, ThoughtSyntax

THINK = ThoughtSyntax()
TIGHT = ThoughtSyntax(lead="", tail="", gap="")
LINE = ThoughtSyntax(gap="\n")

HERMES = CallSyntax(form="object", section_open="<tool_call>\n", section_close="\n</tool_call>", between="\n")

QWEN_XML = CallSyntax(
    form="tagged",
    section_open="<tool_call>\n",
    section_close="\n</tool_call>",
    section_optional=True,
    open="<function=",
    name_end=">\n",
    param_open="<parameter=",
    param_name_end=">\n",
    param_close="\n</parameter>\n",
    close="</function>",
    between="\n",
)
GLM = CallSyntax(
    form="tagged",
    section_open="<tool_call>",
    section_close="</tool_call>",
    name_end="\n",
    param_open="<arg_key>",
    param_name_end="</arg_key>\n<arg_value>",
    param_close="</arg_value>\n",
    between="\n",
)
GLM_TIGHT = evolve(GLM, name_end="", param_name_end="</arg_key><arg_value>", param_close="</arg_value>", between="")
INVOKE = CallSyntax(
    form="tagged",
    section_open="<minimax:tool_call>\n",
    section_close="</minimax:tool_call>",
    open='<invoke name="',
    name_end='">\n',
    param_open='<parameter name="',
    param_attributes='"',
    param_name_end=">",
    param_close="</parameter>\n",
    close="</invoke>\n",
    repeat="call",
)
DSML = evolve(
    INVOKE,
    section_open="<｜DSML｜function_calls>\n",
    section_close="</｜DSML｜function_calls>",
    open='<｜DSML｜invoke name="',
    param_open='<｜DSML｜parameter name="',
    param_attributes='" string="{string}"',
    param_close="</｜DSML｜parameter>\n",
    close="</｜DSML｜invoke>\n",
)
DEEPSEEK = CallSyntax(
    form="named",
    section_open="<｜tool▁calls▁begin｜>",
    section_close="<｜tool▁calls▁end｜>",
    section_optional=True,
    open="<｜tool▁call▁begin｜>",
    name_end="<｜tool▁sep｜>",
    close="<｜tool▁call▁end｜>",
    repeat="call",
)
MISTRAL = CallSyntax(form="named", open="[TOOL_CALLS]", name_end="[ARGS]")
LLAMA = CallSyntax(
    form="object",
    section_open="<|python_tag|>␣",
    section_optional=True,
    between="; ",
    repeat="call",
    parallel=False,
    start_only=True,
    arguments_key="parameters",
)
BRACKETS = evolve(TIGHT, open="[THINK]", close="[/THINK]")


def listed(before: str, after: str, between: str = ", ", form: str = "object") -> CallSyntax:
    """A JSON list of calls between two marks."""
    return CallSyntax(
        form="keyed" if form == "keyed" else "object",
        section_open=f"{before}␣[",
        section_close=f"]{after}",
        between=between,
        repeat="call",
    )


COHERE = evolve(
    listed("<|START_ACTION|>", "<|END_ACTION|>", between=",\n    "),
    section_open="<|START_ACTION|>[\n    ",
    section_close="\n]<|END_ACTION|>",
    name_key="tool_name",
    arguments_key="parameters",
    index_key="tool_call_id",
)
COHERE_THOUGHT = evolve(TIGHT, open="<|START_THINKING|>", close="<|END_THINKING|>")
GEMMA = CallSyntax(form="literal", open="<|tool_call>call:", close="<tool_call|>", quotes='<|"|>', repeat="call")
LFM = CallSyntax(
    form="python",
    section_open="<|tool_call_start|>[",
    section_close="]<|tool_call_end|>",
    between=", ",
    repeat="call",
)  # fmt: skip

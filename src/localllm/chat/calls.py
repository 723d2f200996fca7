"""How tool calls are written where a chat template writes none itself.

Such a template expects the calls in the message's content, as the model wrote them. The texts here are templates, too:
what they write themselves makes control tokens, what comes from the calls does not.
"""

from __future__ import annotations

HERMES = """\
{%- for call in tool_calls %}
    {{- '\\n' if not loop.first }}{{- '<tool_call>\\n' }}
    {{- call.function|tojson }}{{- '\\n</tool_call>' }}
{%- endfor %}
"""
"""The form of the Hermes models, which most others have seen as well."""

GRANITE = """\
{{- '<|tool_call|>[' }}
{%- for call in tool_calls %}{{- ', ' if not loop.first }}{{- call.function|tojson }}{% endfor %}{{- ']' }}
"""
"""The form of Granite 3."""

PHI = """\
{{- '<|tool_call|>[' }}
{%- for call in tool_calls %}{{- ', ' if not loop.first }}{{- call.function|tojson }}{% endfor %}
{{- ']<|/tool_call|>' }}
"""
"""The form of Phi-4 mini."""

LFM = """\
{%- macro python(value) -%}
    {%- if value is string %}{{- value|tojson }}
    {%- elif value is mapping %}{{- '{' }}
        {%- for name, item in value.items() %}
            {{- ', ' if not loop.first }}{{- name|tojson }}{{- ': ' }}{{- python(item) }}
        {%- endfor %}{{- '}' }}
    {%- elif value is sequence %}{{- '[' }}
        {%- for item in value %}{{- ', ' if not loop.first }}{{- python(item) }}{% endfor %}{{- ']' }}
    {%- else %}{{- value }}{% endif %}
{%- endmacro %}
{{- '<|tool_call_start|>[' }}
{%- for call in tool_calls %}
    {{- ', ' if not loop.first }}{{- call.function.name }}{{- '(' }}
    {%- for name, value in call.function.arguments.items() %}
        {{- ', ' if not loop.first }}{{- name }}{{- '=' }}{{- python(value) }}
    {%- endfor %}{{- ')' }}
{%- endfor %}{{- ']<|tool_call_end|>' }}
"""
"""The form of Liquid's LFM2: calls as in Python."""

_BY_MARK = (
    ("<|/tool|>", PHI),
    ("<|tool_call|>", GRANITE),
    ("<|tool_list_start|>", LFM),
    ("keep_past_thinking", LFM),  # a variable of LFM2.5, whose template has none of its marks
)


def calls_of(source: str) -> str:
    """Return the template for calls that goes with a chat template, found by what stands in it.

    Args:
        source: The chat template.
    """
    return next((calls for mark, calls in _BY_MARK if mark in source), HERMES)

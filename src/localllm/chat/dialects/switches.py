"""What a chat template can be told, found out from its source."""

from __future__ import annotations

import jinja2
from jinja2 import meta

from localllm._json import JsonValue
from localllm.chat.sandbox import ChatEnvironment
from localllm.errors import TemplateError

_OFF: dict[str, JsonValue] = {
    "enable_thinking": False,
    "thinking": False,
    "reasoning": False,
    "thinking_budget": 0,
    "thinking_mode": "disabled",
}
_EFFORTS = ("no_think", "none", "minimal")  # the least that families name, if the template knows the word
_MAX_CHARS = 1_000_000  # a template as long as this is refused elsewhere


def variables_of(source: str) -> frozenset[str]:
    """Return the names of the variables that a template is given; none if it does not parse."""
    if len(source) > _MAX_CHARS:
        return frozenset()
    try:
        return frozenset(meta.find_undeclared_variables(ChatEnvironment().parse(source)))
    except (jinja2.TemplateError, TemplateError, RecursionError):
        return frozenset()  # whoever renders it says what is wrong with it


def thought_switch_of(source: str, variables: frozenset[str]) -> dict[str, JsonValue]:
    """Return the variables that turn a template's thoughts off; empty if it has none."""
    switch = {name: off for name, off in _OFF.items() if name in variables}
    if "reasoning_effort" in variables and not switch:
        known = [word for word in _EFFORTS if f"'{word}'" in source or f'"{word}"' in source]
        return {"reasoning_effort": known[0]} if known else {}
    return switch

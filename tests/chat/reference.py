"""What transformers makes of the conversations in `conversations`: the reference for `ChatTemplate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Protocol, cast

from localllm._json import JsonValue


class _RenderJinjaTemplate(Protocol):
    def __call__(
        self,
        conversations: list[list[Mapping[str, JsonValue]]],
        *,
        tools: list[JsonValue] | None,
        chat_template: str,
        add_generation_prompt: bool,
        bos_token: str,
        eos_token: str,
    ) -> tuple[list[str], list[object]]: ...


@cache
def _transformers() -> _RenderJinjaTemplate:
    # Imported where it is used: that takes a second, which no other test should pay.
    from transformers.utils import chat_template_utils

    return cast("_RenderJinjaTemplate", chat_template_utils.render_jinja_template)


def render(
    source: str,
    messages: Sequence[Mapping[str, JsonValue]],
    tools: Sequence[JsonValue] | None,
    *,
    add_generation_prompt: bool = True,
) -> str | Exception:
    """Return what transformers renders, or the exception that the template ends with."""
    try:
        rendered, _ = _transformers()(
            [list(messages)],
            tools=None if tools is None else list(tools),
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            bos_token="<s>",
            eos_token="</s>",
        )
    except Exception as exc:  # noqa: BLE001  # templates end with whatever their operations raise
        return exc
    return rendered[0]

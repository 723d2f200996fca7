"""A model's chat template: compiled once, rendered from any thread, bounded in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import TracebackType

import jinja2
from attrs import evolve

from localllm._json import JsonValue
from localllm.chat.budget import Budget, TemplateLimits
from localllm.chat.calls import calls_of
from localllm.chat.habits import Habits, Shaped, call_habits, thought_habits
from localllm.chat.rewrite import Rewriter
from localllm.chat.sandbox import ChatEnvironment, RefusedError
from localllm.chat.traced import CONTENT
from localllm.chat.variables import Shaper, Taker
from localllm.errors import TemplateError
from localllm.types import Message

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""The template of a model that has none: ChatML, the format that most models have seen."""

RAW = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""No template at all: the contents one after the other, for base models and for text that is a prompt already.

There are no roles, no marks and no beginning of a reply; the renderer puts a BOS before it if the vocabulary adds one.
"""

_MAX_MESSAGE = 300
_TRIAL_STEPS = 100_000  # real templates take a few thousand for the short conversations that they are tried with


class ChatTemplate:
    """A Hugging Face style chat template.

    Args:
        source: The Jinja source.
        limits: Bounds of the source and of one render.
        clock: What the template's `strftime_now` tells.
        calls: A template for `tool_calls`, used where `source` writes none: they become a part of the content. The
            form that goes with `source` by default (see `localllm.chat.calls`).

    Raises:
        TemplateError: The source is too long or does not parse; the message has the line.
    """

    def __init__(
        self,
        source: str,
        *,
        limits: TemplateLimits | None = None,
        clock: Callable[[], datetime] = datetime.now,
        calls: str | None = None,
    ) -> None:
        self.source = source
        self._limits = TemplateLimits() if limits is None else limits
        self._environment = ChatEnvironment(clock)
        self._template = self._compile(source)
        self._calls = calls_of(source) if calls is None else calls

    def _compile(self, source: str) -> jinja2.Template:
        if len(source) > self._limits.source_chars:
            raise TemplateError(
                f"the chat template has {len(source):,} characters; at most {self._limits.source_chars:,} are read"
            )
        environment = self._environment
        try:
            tree = Rewriter().visit(environment.parse(source))
            tree.set_environment(environment)
            code = environment.compile(tree)
            return environment.template_class.from_code(environment, code, environment.globals)
        except TemplateError:
            raise
        except jinja2.TemplateSyntaxError as exc:
            raise TemplateError(f"the chat template does not parse: line {exc.lineno}: {exc.message}") from exc
        except Exception as exc:
            # Python's own compiler: nested too deep, too many digits, and the like
            raise TemplateError(f"the chat template does not compile: {_told(exc)}") from exc

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
        tools: Sequence[JsonValue] | None = None,
        documents: Sequence[JsonValue] | None = None,
        variables: Mapping[str, JsonValue] | None = None,
        origins: Sequence[str] | None = None,
    ) -> str:
        """Return the conversation as the template puts it, with the origin of each character.

        Args:
            messages: The conversation.
            add_generation_prompt: End with the beginning of a reply.
            bos_token: Text of the token that begins a text.
            eos_token: Text of the token that ends one.
            tools: Tool descriptions as JSON, in the shape that the template's model was trained with.
            documents: Documents as JSON.
            variables: More variables for the template, such as `enable_thinking`.
            origins: The origin of each message's content (see `localllm.chat.traced`); CONTENT by default.

        Returns:
            A `TracedText`, or a plain str if there is no content in it.

        Raises:
            TemplateError: The template refuses the messages, fails, or computes too much.
        """
        taker = Taker()
        given = [CONTENT] * len(messages) if origins is None else origins
        values: dict[str, object] = {
            **{name: taker.take(value) for name, value in (variables or {}).items()},
            "messages": self._shaper(messages, taker).shape(messages, given),
            "tools": taker.take(tools),
            "documents": taker.take(documents),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        budget = Budget(self._limits, taker.chars)
        try:
            text = self._environment.render(self._template, values, budget)
            text.encode()
            return text
        except RefusedError as exc:
            raise TemplateError(f"the chat template refuses these messages: {_told(exc)}") from exc
        except TemplateError as exc:
            raise TemplateError(f"{exc.message}{self._place(exc.__traceback__)}") from exc
        except UnicodeEncodeError as exc:
            raise TemplateError("the chat template puts out a lone surrogate, which is no text") from exc
        except Exception as exc:
            place = self._place(exc.__traceback__)
            raise TemplateError(f"the chat template fails{place}: {type(exc).__name__}: {_told(exc)}") from exc

    def _shaper(self, messages: Sequence[Message], taker: Taker) -> Shaper:
        """Return what brings `messages` into this template's shape; it is tried out only for what they have."""
        thoughts = any(message.thought is not None for message in messages)
        calls = any(message.tool_calls or message.role == "tool" for message in messages)
        return Shaper(
            taker,
            self._thought_habits if thoughts else Habits(),
            self._call_habits if calls else Habits(),
            self._write_calls,
        )

    @cached_property
    def _thought_habits(self) -> Habits:
        return thought_habits(self.source, self._try)

    @cached_property
    def _call_habits(self) -> Habits:
        return call_habits(self.source, self._try)

    @cached_property
    def _calls_template(self) -> jinja2.Template:
        return self._compile(self._calls)

    def _write_calls(self, calls: list[dict[str, object]]) -> str:
        budget = Budget(self._limits, sum(len(str(call)) for call in calls))
        return self._environment.render(self._calls_template, {"tool_calls": calls}, budget)

    def _try(self, messages: Sequence[Shaped], tools: Sequence[JsonValue]) -> str | None:
        """Return what the template makes of messages in this very shape, or None."""
        taker = Taker()
        given = {"messages": taker.take(messages), "tools": taker.take(tools) if tools else None, "documents": None}
        tokens = {"bos_token": "", "eos_token": "", "add_generation_prompt": True}
        budget = Budget(evolve(self._limits, steps=min(self._limits.steps, _TRIAL_STEPS)), taker.chars)
        try:
            return self._environment.render(self._template, {**given, **tokens}, budget)
        except Exception:  # noqa: BLE001  # whatever goes wrong: this is not the shape that it reads
            return None

    def _place(self, traceback: TracebackType | None) -> str:
        """Return where in the template an exception was raised."""
        place = ""
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<template>":
                place = f" at line {self._template.get_corresponding_lineno(traceback.tb_lineno)}"
            traceback = traceback.tb_next
        return place


def _told(exc: Exception) -> str:
    text = str(exc) or type(exc).__name__
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + "..."

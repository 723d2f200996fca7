"""A model's chat template: compiled once, rendered from any thread, bounded in time and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType

import jinja2

from localllm._json import JsonValue
from localllm.chat.budget import Budget, TemplateLimits
from localllm.chat.rewrite import Rewriter
from localllm.chat.sandbox import ChatEnvironment, RefusedError
from localllm.chat.traced import CONTENT, content
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

_MAX_MESSAGE = 300


class ChatTemplate:
    """A Hugging Face style chat template.

    Args:
        source: The Jinja source.
        limits: Bounds of the source and of one render.
        clock: What the template's `strftime_now` tells.

    Raises:
        TemplateError: The source is too long or does not parse; the message has the line.
    """

    def __init__(
        self, source: str, *, limits: TemplateLimits | None = None, clock: Callable[[], datetime] = datetime.now
    ) -> None:
        self.source = source
        self._limits = TemplateLimits() if limits is None else limits
        self._environment = ChatEnvironment(clock)
        self._template = self._compile(source)

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
        counter = _Counter()
        given = [CONTENT] * len(messages) if origins is None else origins
        values: dict[str, object] = {
            **{name: counter.take(value) for name, value in (variables or {}).items()},
            "messages": [counter.message(message, origin) for message, origin in zip(messages, given, strict=True)],
            "tools": counter.take(tools),
            "documents": counter.take(documents),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        budget = Budget(self._limits, counter.chars)
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


class _Counter:
    """Turns messages and JSON into what a template sees, and counts the characters."""

    def __init__(self) -> None:
        self.chars = 0

    def take(self, value: JsonValue, origin: str = CONTENT) -> object:
        """Return a copy of `value` in which every text is content."""
        if isinstance(value, str):
            self.chars += len(value)
            return content(value, origin)
        if isinstance(value, Mapping):
            return {self.take(key, origin): self.take(item, origin) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.take(item, origin) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        raise TemplateError(f"a chat template takes JSON, not a {type(value).__name__}")

    def message(self, message: Message, origin: str) -> dict[str, object]:
        """Return a message in Hugging Face's shape; keys are there only if the message has them."""
        data: dict[str, object] = {"role": message.role, "content": self.take(message.content, origin)}
        if message.thought is not None:
            data["reasoning_content"] = self.take(message.thought, origin)
        if message.tool_calls:
            data["tool_calls"] = [
                {
                    "id": self.take(call.id, origin),
                    "type": "function",
                    "function": {
                        "name": self.take(call.name, origin),
                        "arguments": self.take(call.arguments, origin),
                    },
                }
                for call in message.tool_calls
            ]
        if message.tool_call_id is not None:
            data["tool_call_id"] = self.take(message.tool_call_id, origin)
        return data

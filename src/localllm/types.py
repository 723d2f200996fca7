"""The values of a conversation: messages, chunks, events, replies and their figures.

All of them are frozen attrs classes without behaviour beyond conversion to and from JSON. They hold no
reference to a model, a thread or a file, and may be shared between threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, Self, TypeAlias, cast, get_args

from attrs import asdict, field, frozen
from typing_extensions import TypeVar

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm.errors import GenerationTimeoutError, InvalidPromptError, LocalLLMError, PromptTypeError

Role = Literal["system", "user", "assistant", "tool"]
Segment = Literal["text", "thought"]
FinishReason = Literal["stop", "length", "tool_calls", "cancelled", "timeout", "error"]

ROLES: tuple[Role, ...] = get_args(Role)
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)


@frozen
class ToolCall:
    """A call that the model asks for.

    Args:
        name: The tool's name.
        arguments: The arguments as parsed JSON.
        id: What a tool message refers to in `tool_call_id`; empty where the model's family has none.
    """

    name: str
    arguments: Mapping[str, JsonValue] = field(factory=dict, hash=False)
    id: str = ""

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object with `id`, `name` and `arguments`."""
        return {"id": self.id, "name": self.name, "arguments": dict(self.arguments)}

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> Self:
        """Read what `to_dict` wrote. Raises InvalidPromptError on anything else."""
        check_keys(data, "tool call", required=("name",), optional=("id", "arguments"))
        arguments = data.get("arguments", {})
        if not isinstance(arguments, Mapping):
            raise InvalidPromptError(f"a tool call's arguments must be a JSON object, not {arguments!r:.80}")
        return cls(
            name=check_text(data["name"], "a tool call's name"),
            arguments=arguments,
            id=check_text(data.get("id", ""), "a tool call's id"),
        )


@frozen
class TokenIds:
    """The tokens that a model generated for a message, valid for that very model only.

    Args:
        model_hash: The identity of the model, see `ModelInfo.model_hash`.
        tokens: The generated tokens, end-of-turn token excluded.
    """

    model_hash: str
    tokens: tuple[int, ...]


def _as_tuple(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    return tuple(calls)


@frozen
class Message:
    """One message of a conversation.

    Args:
        role: "system", "user", "assistant" or "tool".
        content: The text. Never parsed for control tokens.
        thought: The model's reasoning, kept apart from the text.
        tool_calls: The calls that an assistant message asks for.
        tool_call_id: The call that a tool message answers.
        finish_reason: How an assistant message ended; not compared.
        token_ids: What the model generated, as tokens; opaque and not compared.

    Raises:
        InvalidPromptError: Unknown role, lone surrogates, or NUL in a text that is not the model's own.
        PromptTypeError: A field of the wrong type.
    """

    role: Role = field()
    content: str = field()
    thought: str | None = field(default=None, kw_only=True)
    tool_calls: tuple[ToolCall, ...] = field(default=(), kw_only=True, converter=_as_tuple)
    tool_call_id: str | None = field(default=None, kw_only=True)
    finish_reason: FinishReason | None = field(default=None, kw_only=True, eq=False, repr=False)
    token_ids: TokenIds | None = field(default=None, kw_only=True, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.role, str):
            raise PromptTypeError(f"a message's role must be a str, not {type(self.role).__name__}")
        if self.role not in ROLES:
            raise InvalidPromptError(f"unknown role {self.role!r}; use one of {', '.join(ROLES)}")
        what = f"the content of a {self.role} message"
        check_text(self.content, what)
        if self.role != "assistant" and "\0" in self.content:
            raise InvalidPromptError(
                f"{what} holds NUL (U+0000) at index {self.content.index(chr(0))}; "
                "remove it: no model was trained on it"
            )
        if self.thought is not None:
            check_text(self.thought, "a message's thought")
        if self.tool_call_id is not None:
            check_text(self.tool_call_id, "a message's tool_call_id")
        for call in self.tool_calls:
            if not isinstance(call, ToolCall):
                raise PromptTypeError(f"tool_calls holds {type(call).__name__}, not ToolCall")

    @classmethod
    def user(cls, text: str) -> Self:
        """Return a message from the user."""
        return cls("user", text)

    @classmethod
    def system(cls, text: str) -> Self:
        """Return a system message: instructions that stay."""
        return cls("system", text)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object; fields at their default are left out."""
        data: dict[str, JsonValue] = {"role": self.role, "content": self.content}
        if self.thought is not None:
            data["thought"] = self.thought
        if self.tool_calls:
            data["tool_calls"] = [call.to_dict() for call in self.tool_calls]
        if self.tool_call_id is not None:
            data["tool_call_id"] = self.tool_call_id
        if self.finish_reason is not None:
            data["finish_reason"] = self.finish_reason
        if self.token_ids is not None:
            data["token_ids"] = {
                "model_hash": self.token_ids.model_hash,
                "tokens": list(self.token_ids.tokens),
            }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            InvalidPromptError: A key is missing, unknown, or its value is of the wrong kind.
        """
        optional = ("thought", "tool_calls", "tool_call_id", "finish_reason", "token_ids")
        check_keys(data, "message", required=("role", "content"), optional=optional)
        calls = as_list(data.get("tool_calls", ()), "a message's tool_calls")
        finish = data.get("finish_reason")
        if finish is not None and finish not in FINISH_REASONS:
            raise InvalidPromptError(f"unknown finish_reason {finish!r}; one of {', '.join(FINISH_REASONS)}")
        thought, call_id = data.get("thought"), data.get("tool_call_id")
        return cls(
            cast("Role", data["role"]),  # validated by the class itself
            check_text(data["content"], "a message's content"),
            thought=None if thought is None else check_text(thought, "a message's thought"),
            tool_calls=tuple(ToolCall.from_dict(as_object(call, "a tool call")) for call in calls),
            tool_call_id=None if call_id is None else check_text(call_id, "a message's tool_call_id"),
            finish_reason=finish,
            token_ids=_token_ids_from(data.get("token_ids")),
        )


Prompt: TypeAlias = str | Message | Sequence[Message]
"""What a session can be asked: a user's text, one message, or several that are appended to the history."""


@frozen
class Usage:
    """What a reply cost, in tokens.

    Args:
        prompt_tokens: Tokens of the rendered prompt.
        cached_tokens: Those of them that were not computed again.
        completion_tokens: Tokens generated, the end-of-turn token excluded.
        thought_tokens: Those of them that belong to thoughts.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    thought_tokens: int = 0


@frozen
class Timings:
    """Where the time of a reply went, in seconds.

    Args:
        queue_s: From the request to its first step.
        prefill_s: From the first step to the first generated token.
        first_token_s: From the request to the first generated token; 0 when there was none.
        decode_s: From the first generated token to the end.
        tokens_per_s: Generated tokens after the first, by `decode_s`; 0 when there were fewer than two.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0


T_co = TypeVar("T_co", default=None, covariant=True)


@frozen
class Reply(Generic[T_co]):
    """A whole reply, however it ended.

    Args:
        text: The reply's text, thoughts and tool calls taken out.
        message: The assistant message as the history keeps it.
        finish_reason: Why it ended.
        usage: Its cost in tokens.
        timings: Its cost in seconds.
        thought: The model's reasoning, or None.
        tool_calls: The calls it asks for.
        parsed: The value that a schema gave, else None.
        dropped: Messages that the context policy left out of the prompt.
    """

    text: str
    message: Message
    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    thought: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: T_co = field(default=cast("T_co", None))  # None is what T_co is by default
    dropped: tuple[Message, ...] = ()

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object. `parsed` is left out: it belongs to the caller's own types."""
        return {
            "message": self.message.to_dict(),
            "finish_reason": self.finish_reason,
            "usage": _figures(self.usage),
            "timings": _figures(self.timings),
            "dropped": [message.to_dict() for message in self.dropped],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> Reply:
        """Read what `to_dict` wrote; `parsed` is None.

        Raises:
            InvalidPromptError: A key is missing, unknown, or its value is of the wrong kind.
        """
        required = ("message", "finish_reason", "usage", "timings")
        check_keys(data, "reply", required=required, optional=("dropped",))
        message = Message.from_dict(as_object(data["message"], "a reply's message"))
        finish = data["finish_reason"]
        if finish not in FINISH_REASONS:
            raise InvalidPromptError(f"unknown finish_reason {finish!r}; one of {', '.join(FINISH_REASONS)}")
        dropped = as_list(data.get("dropped", ()), "a reply's dropped")
        usage = {name: int(value) for name, value in _numbers(data["usage"], Usage()).items()}
        return Reply(
            text=message.content,
            message=message,
            finish_reason=finish,
            usage=Usage(**usage),
            timings=Timings(**_numbers(data["timings"], Timings())),
            thought=message.thought,
            tool_calls=message.tool_calls,
            dropped=tuple(Message.from_dict(as_object(item, "a dropped message")) for item in dropped),
        )

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)


@frozen
class StreamChunk:
    """A piece of a reply as it is made: whole characters, never a part of a stop string.

    Args:
        text: The piece; never empty.
        segment: "text", or "thought" for reasoning.
        index: Counts the chunks of one stream, from 0.
    """

    text: str
    segment: Segment
    index: int


@frozen
class PromptProgress:
    """How far the prompt has been read.

    Args:
        processed_tokens: Tokens read so far, cached ones included.
        cached_tokens: Those of them that came from the cache.
        total_tokens: Tokens of the prompt.
    """

    processed_tokens: int
    cached_tokens: int
    total_tokens: int


@frozen
class ReplyEnded:
    """The last event of a stream.

    Args:
        reply: The whole reply.
    """

    reply: Reply


StreamEvent: TypeAlias = PromptProgress | StreamChunk | ReplyEnded
"""What `ChatStream.events()` yields."""


@frozen
class TextDelta:
    """A backend made text: whole characters, never empty, never a part of a stop string.

    Args:
        text: The piece.
        segment: "text" or "thought".
        token_ids: The tokens generated since the delta before, where the backend tells them; not compared.
    """

    text: str
    segment: Segment = "text"
    token_ids: tuple[int, ...] = field(default=(), eq=False)


@frozen
class GenerationEnded:
    """A backend ended a request: the last event, exactly one a request.

    Args:
        finish_reason: Why it ended.
        usage: Its cost in tokens.
        timings: Its cost in seconds.
        token_ids: The tokens generated, if the backend can use them again.
        tool_calls: The calls that the reply asks for.
        error: What failed; given if `finish_reason` is "error". With "timeout" it may say which limit has passed.
    """

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    token_ids: TokenIds | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    error: LocalLLMError | None = field(default=None)

    def __attrs_post_init__(self) -> None:
        told_timeout = self.finish_reason == "timeout" and isinstance(self.error, GenerationTimeoutError)
        if (self.error is not None) != (self.finish_reason == "error") and not told_timeout:
            raise ValueError(f"finish_reason {self.finish_reason!r} does not go with error={self.error!r}")


BackendEvent: TypeAlias = PromptProgress | TextDelta | GenerationEnded
"""What a backend pushes to its sink; see `localllm.backends.base`."""


def _token_ids_from(value: JsonValue) -> TokenIds | None:
    if value is None:
        return None
    data = as_object(value, "a message's token_ids")
    check_keys(data, "token_ids", required=("model_hash", "tokens"), optional=())
    tokens = as_list(data["tokens"], "token_ids.tokens")
    ids = tuple(token for token in tokens if isinstance(token, int) and token >= 0)
    if len(ids) != len(tokens):
        raise InvalidPromptError("token_ids.tokens holds something that is no token id")
    return TokenIds(check_text(data["model_hash"], "token_ids.model_hash"), ids)


def _figures(value: Usage | Timings) -> dict[str, JsonValue]:
    return dict(asdict(value))


def _numbers(value: JsonValue, like: Usage | Timings) -> dict[str, float]:
    names = tuple(_figures(like))
    data = as_object(value, type(like).__name__)
    check_keys(data, type(like).__name__, required=(), optional=names)
    numbers = {key: number for key, number in data.items() if isinstance(number, (int, float))}
    if len(numbers) != len(data):
        raise InvalidPromptError(f"{type(like).__name__} holds a value that is no number: {dict(data)!r:.120}")
    return numbers

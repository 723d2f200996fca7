"""The messages of a conversation, with the tool calls in them.

Frozen attrs classes without behaviour beyond conversion to and from JSON. Their public home is `localllm.types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self, TypeAlias, cast, get_args

from attrs import field, frozen

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm.errors import InvalidPromptError, PromptTypeError

Role = Literal["system", "user", "assistant", "tool"]
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

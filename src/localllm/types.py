"""The values of a conversation: messages, chunks, events, replies and their figures.

All of them are frozen attrs classes without behaviour beyond conversion to and from JSON. They hold no
reference to a model, a thread or a file, and may be shared between threads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Generic, Literal, TypeAlias, cast

from attrs import asdict, field, frozen
from typing_extensions import TypeVar

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm.errors import GenerationTimeoutError, InvalidPromptError, LocalLLMError
from localllm.logprobs import TokenLogprob as TokenLogprob
from localllm.logprobs import logprobs_from
from localllm.messages import FINISH_REASONS as FINISH_REASONS
from localllm.messages import ROLES as ROLES
from localllm.messages import FinishReason as FinishReason
from localllm.messages import Message as Message
from localllm.messages import Prompt as Prompt
from localllm.messages import Role as Role
from localllm.messages import TokenIds as TokenIds
from localllm.messages import ToolCall as ToolCall

Segment = Literal["text", "thought"]


@frozen
class Usage:
    """What a reply cost, in tokens.

    Args:
        prompt_tokens: Tokens of the rendered prompt; where tools were run, of the last one.
        cached_tokens: Those of them that were not computed again.
        completion_tokens: Tokens generated, the end-of-turn token excluded; of calls, and of a summary, too.
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


@frozen
class ToolResult:
    """What became of a call.

    Args:
        call: The call as it was run; a hook may have changed it.
        content: What the model is told.
        error: What the tool raised, or why it was not run or not waited for; None if all went well. Not compared.
    """

    call: ToolCall
    content: str
    error: Exception | None = field(default=None, eq=False)


T_co = TypeVar("T_co", default=None, covariant=True)


@frozen
class Reply(Generic[T_co]):
    """A whole reply, however it ended. After tools were run, it is about the answer that followed the last results.

    Args:
        text: The reply's text, thoughts and tool calls taken out.
        message: The assistant message as the history keeps it.
        finish_reason: Why it ended.
        usage: Its cost in tokens.
        timings: Its cost in seconds.
        thought: The model's reasoning, or None.
        tool_calls: The calls it asks for, and that nobody has run.
        parsed: The value that a schema gave, else None.
        dropped: Messages that the context policy left out of the prompt, from this turn on.
        tool_results: What became of the calls that were run for it, of all rounds, in the order of the calls.
        logprobs: The log-probabilities of its tokens, if they were asked for; not those of tokens that were put in to
            close a thought, which the model did not choose.
        notes: What looked like a call and could not be read as one, and so stayed text; of all rounds.
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
    tool_results: tuple[ToolResult, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, JsonValue]:
        """Return a JSON object.

        `parsed` and `tool_results` are left out, since they hold the caller's own types.
        """
        data: dict[str, JsonValue] = {
            "message": self.message.to_dict(),
            "finish_reason": self.finish_reason,
            "usage": _figures(self.usage),
            "timings": _figures(self.timings),
            "dropped": [message.to_dict() for message in self.dropped],
            "notes": list(self.notes),
        }
        if self.logprobs:
            data["logprobs"] = [logprob.to_dict() for logprob in self.logprobs]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, JsonValue]) -> Reply:
        """Read what `to_dict` wrote; `parsed` is None, and `tool_results` is empty.

        Raises:
            InvalidPromptError: A key is missing, unknown, or its value is of the wrong kind.
        """
        required = ("message", "finish_reason", "usage", "timings")
        check_keys(data, "reply", required=required, optional=("dropped", "notes", "logprobs"))
        message = Message.from_dict(as_object(data["message"], "a reply's message"))
        finish = data["finish_reason"]
        if finish not in FINISH_REASONS:
            raise InvalidPromptError(f"unknown finish_reason {finish!r}; one of {', '.join(FINISH_REASONS)}")
        dropped = as_list(data.get("dropped", ()), "a reply's dropped")
        notes = as_list(data.get("notes", ()), "a reply's notes")
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
            logprobs=logprobs_from(data.get("logprobs", ())),
            notes=tuple(check_text(note, "a note") for note in notes),
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
class ReplyEnded(Generic[T_co]):
    """The last event of a stream.

    Args:
        reply: The whole reply.
    """

    reply: Reply[T_co]


@frozen
class ToolCallStarted:
    """The model begins to call a tool.

    Args:
        index: Counts the calls of one reply, from 0.
        id: What the answer refers to.
        name: The tool's name.
        token_ids: See `TextDelta`.
    """

    index: int
    id: str
    name: str
    token_ids: tuple[int, ...] = field(default=(), eq=False, repr=False)


@frozen
class ToolCallDelta:
    """A piece of a call's arguments, as JSON text; of dialects that write none, it is JSON all the same.

    Args:
        index: The call's.
        arguments: The piece; never empty.
        token_ids: See `TextDelta`.
    """

    index: int
    arguments: str
    token_ids: tuple[int, ...] = field(default=(), eq=False, repr=False)


@frozen
class ToolCallEnded:
    """A call is whole.

    Args:
        index: The call's.
        call: The call, its arguments parsed.
        token_ids: See `TextDelta`.
    """

    index: int
    call: ToolCall
    token_ids: tuple[int, ...] = field(default=(), eq=False, repr=False)


ToolCallEvent: TypeAlias = ToolCallStarted | ToolCallDelta | ToolCallEnded
"""What tells of a call while it is made."""


@frozen
class ToolStarted:
    """A call is being run.

    Args:
        index: The call's, as in `ToolCallStarted`.
        call: The call as it is run; a hook may have changed it.
    """

    index: int
    call: ToolCall


@frozen
class ToolEnded:
    """A call was run, or was not: it was refused, say. One that was not run has no `ToolStarted`.

    Args:
        index: The call's.
        result: What became of it.
    """

    index: int
    result: ToolResult


@frozen
class MessagesDropped:
    """The context policy left messages out of the prompt, and will until they are undone.

    Args:
        messages: Those that were left out now, oldest first.
    """

    messages: tuple[Message, ...]


StreamEvent: TypeAlias = (
    PromptProgress | StreamChunk | ToolCallEvent | ToolStarted | ToolEnded | MessagesDropped | ReplyEnded[T_co]
)
"""What `ChatStream.events()` yields."""


@frozen
class TextDelta:
    """A backend made text: whole characters, never empty, never a part of a stop string.

    Args:
        text: The piece.
        segment: "text" or "thought".
        token_ids: The tokens generated since the event before, where the backend tells them; not compared.
        logprobs: Their log-probabilities, if they were asked for.
    """

    text: str
    segment: Segment = "text"
    token_ids: tuple[int, ...] = field(default=(), eq=False)
    logprobs: tuple[TokenLogprob, ...] = ()


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
        notes: Of the reply: what looked like a call and could not be read as one, and so stayed text.
        taken_chars: Characters at the end of the request's prefix that turned out to be no text, but the beginning of a
            call, say.
    """

    finish_reason: FinishReason
    usage: Usage = Usage()
    timings: Timings = Timings()
    token_ids: TokenIds | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    error: LocalLLMError | None = field(default=None)
    notes: tuple[str, ...] = ()
    taken_chars: int = 0

    def __attrs_post_init__(self) -> None:
        told_timeout = self.finish_reason == "timeout" and isinstance(self.error, GenerationTimeoutError)
        if (self.error is not None) != (self.finish_reason == "error") and not told_timeout:
            raise ValueError(f"finish_reason {self.finish_reason!r} does not go with error={self.error!r}")


BackendEvent: TypeAlias = PromptProgress | TextDelta | ToolCallEvent | GenerationEnded
"""What a backend pushes to its sink; see `localllm.backends.base`."""


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

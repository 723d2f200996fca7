"""What a turn has made so far, as its consumer was given it: text, calls, results, and the messages they make."""

from __future__ import annotations

from attrs import define, evolve, field

from localllm.types import (
    FinishReason,
    GenerationEnded,
    Message,
    StreamChunk,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallEvent,
    ToolEnded,
    ToolResult,
)

CANCELLED = "error: the call was cancelled before it ended"
"""The result of a call whose turn ended first, in the history that the turn leaves."""


@define(eq=False)
class Draft:
    """Collects what a turn makes; no I/O.

    Args:
        prefix: What the first message begins with, given by the caller and not made by the model.
        thought_prefix: The reasoning that goes with it; None if there is none.
    """

    _prefix: str = ""
    _thought_prefix: str | None = None
    messages: list[Message] = field(factory=list, init=False)
    """Those of the stages that have ended."""
    results: list[ToolResult] = field(factory=list, init=False)
    """Of all rounds."""
    notes: list[str] = field(factory=list, init=False)
    """What the backend noted, of all rounds."""
    said: bool = field(default=False, init=False)
    """Whether any text was given to the consumer."""
    _text: list[str] = field(factory=list, init=False)
    _thought: list[str] = field(factory=list, init=False)
    logprobs: list[TokenLogprob] = field(factory=list, init=False)
    """Of the message that is being made, if they are asked for."""
    _silent: list[str] = field(factory=list, init=False)
    _chunks: int = field(default=0, init=False)
    _calls: tuple[ToolCall, ...] = field(default=(), init=False)  # being run
    _ended: dict[int, ToolResult] = field(factory=dict, init=False)  # their results so far, by place

    @property
    def text(self) -> str:
        """The text of the message that is being made."""
        return self._prefix + "".join(self._text)

    def add(self, delta: TextDelta) -> StreamChunk:
        """Take a piece of the reply and return it as it is handed out."""
        if delta.segment == "text":
            self._text.append(delta.text)
            self.said = True
        else:
            self._thought.append(delta.text)
        self.logprobs += delta.logprobs
        self._chunks += 1
        return StreamChunk(delta.text, delta.segment, self._chunks - 1)

    def add_silent(self, delta: TextDelta) -> None:
        """Take a piece of what the model says to the turn alone."""
        if delta.segment == "text":
            self._silent.append(delta.text)

    def take_silent(self) -> str:
        """Return what the model said to the turn alone, and forget it."""
        silent, self._silent = "".join(self._silent), []
        return silent

    def numbered(self, event: ToolCallEvent) -> ToolCallEvent:
        """Return `event` with its call's index among all calls of the turn."""
        return evolve(event, index=event.index + len(self.results)) if self.results else event

    def message(self, reason: FinishReason, ended: GenerationEnded | None = None) -> Message:
        """Return the message that is being made, as it would be if it ended now.

        Args:
            reason: Why it ends.
            ended: The backend's end, if the consumer has all that was made.
        """
        thought = (self._thought_prefix or "") + "".join(self._thought)
        whole = ended is not None and not self._prefix
        kept = len(self._prefix) - (0 if ended is None else ended.taken_chars)
        return Message(
            "assistant",
            self._prefix[: max(kept, 0)] + "".join(self._text),
            thought=thought if thought or self._thought_prefix is not None else None,
            tool_calls=() if ended is None else ended.tool_calls,
            finish_reason=reason,
            token_ids=ended.token_ids if ended is not None and whole else None,
        )

    def begin_calls(self, message: Message) -> None:
        """Keep a message, whose calls are run now, and begin the next one."""
        self._add(message)
        self._calls = message.tool_calls

    def end_call(self, event: ToolEnded) -> None:
        """Take the result of a call that is being run."""
        self._ended[event.index - len(self.results)] = event.result

    def end_calls(self, results: tuple[ToolResult, ...] = ()) -> tuple[Message, ...]:
        """Keep a result for each call that was being run, and return them as messages.

        Args:
            results: The results, if all calls are done with; else those that are not count as cancelled.
        """
        calls, self._calls = self._calls, ()
        ended, self._ended = self._ended, {}
        done = results or tuple(
            ended.get(index) or ToolResult(call, CANCELLED, None) for index, call in enumerate(calls)
        )
        self.results += done
        added = tuple(
            Message("tool", result.content, tool_call_id=call.id or None)
            for call, result in zip(calls, done, strict=True)
        )
        self.messages += added
        return added

    def _add(self, message: Message) -> None:
        self.messages.append(message)
        self._text, self._thought, self.logprobs, self._prefix, self._thought_prefix = [], [], [], "", None

"""A conversation's messages, where each of its turns begins, and which of them the model reads: a value.

It is changed by making a new one, so that whatever is tried can be undone by keeping the old one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from attrs import evolve, field, frozen

from localllm.errors import InvalidPromptError, PromptTypeError
from localllm.types import FinishReason, Message, Prompt

NOT_RUN = "error: the call was not run"
"""The result of a call that nobody has answered, when the conversation goes on all the same."""

_MESSAGE_TOKENS = 16
"""What a chat template adds to a message at most (a guess; where it is wrong, the backend refuses the prompt)."""

_CUT: tuple[FinishReason | None, ...] = ("length", "cancelled", "timeout")


@frozen
class Window:
    """What the model reads of a conversation whose oldest messages are left out.

    Args:
        head: What stands in front: the system message, and whatever stands for what is left out.
        since: The index of the first message that is read as it is.
    """

    head: tuple[Message, ...]
    since: int

    def of(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return what is read of `messages`."""
        return self.head + messages[self.since :]


@frozen
class History:
    """A conversation: an optional system message, then turns.

    Args:
        messages: All messages, oldest first.
        starts: The index of each turn's first message, ascending.
        answers: The index of each turn's first message after its prompt.
        window: What the model reads of them; None is all.
        counted: What is known of its length: the tokens of the prompt that the first so many messages make.
    """

    messages: tuple[Message, ...] = ()
    starts: tuple[int, ...] = ()
    answers: tuple[int, ...] = ()
    window: Window | None = None
    counted: tuple[int, int] | None = field(default=None, eq=False)

    @classmethod
    def of(cls, system: str | None, messages: Iterable[Message]) -> Self:
        """Return the history that a session begins with; a turn begins with the first of neighbouring user messages.

        Raises:
            InvalidPromptError: A system message that is not the very first, or an empty user message.
            PromptTypeError: Something that is no message.
        """
        if isinstance(messages, (str, Message, Mapping)) or not isinstance(messages, Iterable):
            raise PromptTypeError(f"history must be an iterable of Message, not {_kind(messages)}")
        given = tuple(messages) if system is None else (_system(system), *messages)
        _check_messages(given, at=0)
        starts = [
            index
            for index, message in enumerate(given)
            if message.role == "user" and (index == 0 or given[index - 1].role != "user")
        ]
        ends = [*starts[1:], len(given)]
        return cls(given, tuple(starts), tuple(_answer(given, end) for end in ends[: len(starts)]))

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What the model reads."""
        return self.messages if self.window is None else self.window.of(self.messages)

    @property
    def head(self) -> tuple[Message, ...]:
        """The messages that stay in front of what the model reads, whatever is left out: the system message."""
        first = self.messages[:1]
        return first if first and first[0].role == "system" else ()

    @property
    def since(self) -> int:
        """The index of the first message that the model reads as it is, the system message apart."""
        return len(self.head) if self.window is None else self.window.since

    @property
    def cuts(self) -> tuple[int, ...]:
        """The indices from which on the model could read, were older messages left out, ascending.

        Between whole turns, never between calls and their results, and at the latest before the newest turn.
        """
        return tuple(start for start in self.starts if start > self.since and self.messages[start].role != "tool")

    def size(self, made: tuple[Message, ...] = ()) -> int:
        """Return tokens that the prompt will hardly have more than, without asking the tokenizer: quick, and high.

        Args:
            made: What the newest turn has added.
        """
        known, count = self.counted or (0, 0)
        rest = self.prompt if self.counted is None else self.messages[count:]
        # A token is a byte at least, but for what a tokenizer adds.
        return known + sum(_bytes(message) + _MESSAGE_TOKENS for message in (*rest, *made))

    def asked(self, prompt: Prompt) -> Self:
        """Return the history with `prompt` appended: the beginning of a turn.

        Calls that the last reply asks for, and that neither the session nor the prompt answers, get a result that says
        so: chat templates, and models, expect one for each.

        Raises:
            InvalidPromptError: An empty prompt, a last role other than user and tool, or a misplaced system message.
            PromptTypeError: Something that is neither text nor message.
        """
        messages = _prompt_messages(prompt)
        _check_messages(messages, at=len(self.messages))
        if messages[-1].role not in ("user", "tool"):
            raise InvalidPromptError(
                f"a prompt's last message must be from the user or a tool, not {messages[-1].role!r}: "
                "the model answers it"
            )
        everything = self.messages + _with_results(self.messages[-1:], messages)
        starts, answers = (*self.starts, len(self.messages)), (*self.answers, len(everything))
        return evolve(self, messages=everything, starts=starts, answers=answers)

    def answered(self, *messages: Message) -> Self:
        """Return the history with what the model said and did appended."""
        return evolve(self, messages=self.messages + messages)

    def unanswered(self) -> Self:
        """Return the history without the answer that ends it, its calls and their results, ready for another.

        Raises:
            InvalidPromptError: It does not end with a reply to something.
        """
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise InvalidPromptError("there is no reply to regenerate: the history does not end with one")
        end = self.answers[-1] if self.answers else _answer(self.messages, len(self.messages))
        before = self.messages[end - 1].role if end else "nobody"
        if before not in ("user", "tool"):
            raise InvalidPromptError(
                f"the last reply cannot be regenerated: it follows a message from {before!r}, "
                "not one from the user or a tool"
            )
        kept = self.window if self.window is None or self.window.since <= end else None
        return evolve(self, messages=self.messages[:end], window=kept, counted=None)

    def cut_off(self) -> tuple[Self, Message]:
        """Return the history without the message that ends it, and that message, which was cut off.

        Raises:
            InvalidPromptError: It does not end with a reply that was cut off.
        """
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != "assistant":
            raise InvalidPromptError("there is no reply to continue: the history does not end with one")
        if last.finish_reason not in _CUT or last.tool_calls:
            raise InvalidPromptError(
                f"the last reply was not cut off, it ended with {last.finish_reason!r}; only one that ended with "
                f"{', '.join(map(repr, _CUT))} can be continued"
            )
        window = self.window if self.window is not None and self.window.since < len(self.messages) else None
        return evolve(self, messages=self.messages[:-1], window=window, counted=None), last

    def undone(self) -> tuple[Self, tuple[Message, ...]]:
        """Return the history without its last turn, and the messages of that turn; none if there is no turn."""
        if not self.starts:
            return self, ()
        start = self.starts[-1]
        # What was left out has room again once nothing after it is left.
        window = self.window if self.window is not None and self.window.since < start else None
        kept = self.messages[:start]
        rest = evolve(
            self, messages=kept, starts=self.starts[:-1], answers=self.answers[:-1], window=window, counted=None
        )
        return rest, self.messages[start:]

    def cleared(self) -> Self:
        """Return the history with nothing but its system message, if it has one."""
        return evolve(self, messages=self.head, starts=(), answers=(), window=None, counted=None)

    def drafted(self, draft: str) -> tuple[Message, ...]:
        """Return what the model reads with an unfinished `draft` of the user's next one, if it has any text.

        Raises:
            InvalidPromptError: Lone surrogates or NUL.
            PromptTypeError: It is no str.
        """
        message = Message.user(draft)
        return (*self.prompt, message) if draft else self.prompt


def check_messages(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return `messages` as a tuple, if they are one or more messages.

    Raises:
        InvalidPromptError: There are none.
        PromptTypeError: Something that is no message.
    """
    given: object = messages  # what users pass may be anything
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise PromptTypeError(f"messages must be a sequence of Message, not {_kind(given)}")
    if not messages:
        raise InvalidPromptError("there are no messages; give at least one")
    for message in messages:
        _check_type(message)
    return tuple(messages)


def _prompt_messages(prompt: Prompt) -> tuple[Message, ...]:
    given: object = prompt  # what users pass may be anything
    if isinstance(prompt, str):
        return (Message.user(prompt),)
    if isinstance(prompt, Message):
        return (prompt,)
    if isinstance(given, (bytes, bytearray, Mapping)) or not isinstance(given, Sequence):
        raise PromptTypeError(f"a prompt must be a str, a Message or a sequence of Message, not {_kind(given)}")
    if not prompt:
        raise InvalidPromptError("the prompt is an empty sequence; give at least one message")
    return tuple(prompt)


def _bytes(message: Message) -> int:
    calls = "".join(f"{call.name}{call.arguments}" for call in message.tool_calls)
    return len(f"{message.content}{message.thought or ''}{calls}".encode())


def _answer(messages: tuple[Message, ...], end: int) -> int:
    """Return where the answer begins that ends at `end`: the last message, and the calls and results before it."""
    start = end
    if start and messages[start - 1].role == "assistant":
        start -= 1
    while True:
        call = start
        while call and messages[call - 1].role == "tool":
            call -= 1
        if call == start or not call or not messages[call - 1].tool_calls:
            return start
        start = call - 1


def _with_results(last: tuple[Message, ...], prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return the prompt with a result for each call of the message before it that it has none for."""
    calls = last[0].tool_calls if last else ()
    count = next((index for index, message in enumerate(prompt) if message.role != "tool"), len(prompt))
    if count >= len(calls):  # also if nobody uses ids
        return prompt
    answered = {message.tool_call_id for message in prompt[:count]} - {None}
    unanswered = [call for call in calls if call.id not in answered] if answered else calls[count:]
    open_calls = unanswered[: len(calls) - count]
    missing = tuple(Message("tool", NOT_RUN, tool_call_id=call.id or None) for call in open_calls)
    return prompt[:count] + missing + prompt[count:]


def _system(text: str) -> Message:
    if not isinstance(text, str):
        raise PromptTypeError(f"system must be a str or None, not {_kind(text)}")
    return Message.system(text)


def _check_messages(messages: tuple[Message, ...], *, at: int) -> None:
    """Raise unless these can stand in a conversation from the index `at` on."""
    for index, message in enumerate(messages, start=at):
        _check_type(message)
        if message.role == "system" and index > 0:
            raise InvalidPromptError(
                f"message {index} of the conversation is a system message; only its very first message may be one"
            )
        if message.role == "user" and not message.content:
            raise InvalidPromptError("a user message is empty; give it some text")


def _check_type(message: object) -> None:
    if not isinstance(message, Message):
        raise PromptTypeError(f"a message must be a Message, not {_kind(message)}")


def _kind(value: object) -> str:
    """What `value` is, and how to make a message of it."""
    if isinstance(value, Mapping):
        return "dict; use Message.from_dict"
    if isinstance(value, (bytes, bytearray)):
        return f"{type(value).__name__}; decode it first"
    return type(value).__name__

"""A conversation's messages, and where each of its turns begins: a value, changed by making a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from attrs import evolve, frozen

from localllm.errors import InvalidPromptError, PromptTypeError
from localllm.types import Message, Prompt


@frozen
class History:
    """A conversation: an optional system message, then turns.

    Args:
        messages: All messages, oldest first.
        starts: The index of each turn's first message, ascending.
    """

    messages: tuple[Message, ...] = ()
    starts: tuple[int, ...] = ()

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
        return cls(given, tuple(starts))

    def asked(self, prompt: Prompt) -> Self:
        """Return the history with `prompt` appended: the beginning of a turn.

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
        return evolve(self, messages=self.messages + messages, starts=(*self.starts, len(self.messages)))

    def answered(self, message: Message) -> Self:
        """Return the history with the model's `message` appended."""
        return evolve(self, messages=(*self.messages, message))

    def unanswered(self) -> Self:
        """Return the history without the reply that ends it, ready to be answered again.

        Raises:
            InvalidPromptError: It does not end with a reply to something.
        """
        if len(self.messages) < 2 or self.messages[-1].role != "assistant":
            raise InvalidPromptError("there is no reply to regenerate: the history does not end with one")
        if self.messages[-2].role not in ("user", "tool"):
            raise InvalidPromptError(
                f"the last reply cannot be regenerated: it follows a message from {self.messages[-2].role!r}, "
                "not one from the user or a tool"
            )
        return evolve(self, messages=self.messages[:-1])

    def undone(self) -> tuple[Self, tuple[Message, ...]]:
        """Return the history without its last turn, and the messages of that turn; none if there is no turn."""
        if not self.starts:
            return self, ()
        start = self.starts[-1]
        return evolve(self, messages=self.messages[:start], starts=self.starts[:-1]), self.messages[start:]

    def cleared(self) -> Self:
        """Return the history with nothing but its system message, if it has one."""
        first = self.messages[:1]
        return evolve(self, messages=first if first and first[0].role == "system" else (), starts=())

    def drafted(self, draft: str) -> tuple[Message, ...]:
        """Return the messages with an unfinished `draft` of the user's next one, if it has any text.

        Raises:
            InvalidPromptError: Lone surrogates or NUL.
            PromptTypeError: It is no str.
        """
        message = Message.user(draft)
        return (*self.messages, message) if draft else self.messages


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

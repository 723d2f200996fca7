"""What the model reads of a conversation that is longer than its context window.

Counting is exact, by rendering, and there is little of it: which of the oldest turns have to go is found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from attrs import field, frozen

from localllm.chat.history import History, Window, check_messages
from localllm.errors import ContextOverflowError, InvalidPromptError
from localllm.types import Message

KEEP = 0.7
"""The part of the room for prompts that is filled at most after turns were left out (a guess): the rest is for turns to
come, which find what is kept in the cache until it is full again."""

SUMMARY_TOKENS = 200
"""Tokens of a summary at most, but an eighth of the window."""

SUMMARIZE = (
    "Summarize the conversation above for yourself, so that you can go on with it: facts, names, numbers, decisions "
    "and open questions. Use at most 100 words. Write nothing but the summary."
)
"""What the model is asked for a summary with."""

NOTE = "Summary of the conversation so far:"
"""What stands in front of a summary."""


@frozen
class ContextWindow:
    """A conversation that does not fit into the context window, for a policy of your own.

    Args:
        messages: What the model was to read, oldest first, the newest message last.
        newest: The index of the first message of the newest turn.
        limit_tokens: Tokens that the prompt may have, so that there is room for a reply.
        count: Returns the tokens of a prompt, by rendering it.
    """

    messages: tuple[Message, ...]
    newest: int
    limit_tokens: int
    count: Callable[[Sequence[Message]], int]


OverflowPolicy: TypeAlias = Callable[[ContextWindow], Sequence[Message]]
"""Returns what the model is to read in place of a conversation that is too long; it ends with the newest message.

Called on a thread of the session's own. What it raises ends the turn.
"""

Overflow: TypeAlias = Literal["error", "drop_oldest", "summarize"] | OverflowPolicy
"""What to do with a conversation that is longer than the context window."""

OVERFLOWS: tuple[Literal["error", "drop_oldest", "summarize"], ...] = ("error", "drop_oldest", "summarize")


@frozen
class Shortened:
    """What the model is to read is found, or cannot be.

    Args:
        window: What it is to read; None leaves it as it was.
        dropped: The messages that are left out now.
        summarize: What the model is to be asked for a summary of them; empty if for none.
        error: Why there is nothing to read.
    """

    window: Window | None = None
    dropped: tuple[Message, ...] = ()
    summarize: tuple[Message, ...] = ()
    error: Exception | None = field(default=None)


def summary_tokens(n_ctx: int) -> int:
    """Return how many tokens a summary may have in a window of this size."""
    return max(1, min(SUMMARY_TOKENS, n_ctx // 8))


def summarized(history: History, window: Window, summary: str) -> Window:
    """Return the window with a summary of what is left out: part of the system message, or of the first one else."""
    note = f"{NOTE}\n{summary.strip()}"
    if history.head:
        return Window((Message.system(f"{history.head[0].content}\n\n{note}"),), window.since)
    first = history.messages[window.since]
    return Window((Message(first.role, f"{note}\n\n{first.content}"),), window.since + 1)


@frozen(kw_only=True)
class Shortening:
    """A conversation that is to be shortened.

    Args:
        history: The conversation, the newest turn's prompt included.
        made: What the newest turn has added since.
        refused: How the backend refused it; None if that is only feared.
        reserve: Tokens to leave free for the reply.
        n_ctx: Tokens of the context window.
        policy: What to do.
        count: Returns the tokens of a prompt, by rendering it.
    """

    history: History
    made: tuple[Message, ...]
    refused: ContextOverflowError | None
    reserve: int
    n_ctx: int
    policy: Overflow
    count: Callable[[Sequence[Message]], int]

    def result(self) -> Shortened:
        """Return what the model is to read; slow, for it renders.

        Raises:
            LocalLLMError: The conversation cannot be rendered, or the policy's answer cannot be used.
            Exception: What a policy of the user's own raises.
        """
        window = self._window
        prompt = window.of(self._messages)
        total = self.count(prompt)
        # What the rendering does not show, such as the tools.
        hidden = max(0, self.refused.prompt_tokens - total) if self.refused is not None else 0
        room = self.n_ctx - 1 - hidden
        if self.refused is None and total + self.reserve <= room:
            return Shortened()
        if callable(self.policy):
            return self._by_policy(self.policy, prompt, room)
        return self._without_oldest(window, room, int((room - self.reserve) * KEEP))

    @property
    def _messages(self) -> tuple[Message, ...]:
        return self.history.messages + self.made

    @property
    def _window(self) -> Window:
        return self.history.window or Window(self.history.head, len(self.history.head))

    def _without_oldest(self, window: Window, room: int, target: int) -> Shortened:
        """Leave out as few of the oldest turns as will do."""
        cuts = self.history.cuts
        note = summary_tokens(self.n_ctx) if self.policy == "summarize" else 0
        head = self.history.head if note else window.head

        def tokens(place: int) -> int:
            return self.count(head + self._messages[cuts[place] :]) + note

        place = first_where(len(cuts), lambda place: tokens(place) <= target)
        if place == len(cuts):  # not even the newest turn alone leaves as much room as one would like
            place -= 1
            if place < 0 or tokens(place) > room:
                return Shortened(error=self.refused)
        since = cuts[place]
        dropped = self._messages[window.since : since]
        if not any(message.content or message.tool_calls for message in dropped):
            note = 0
        asked = self._asked_for_summary(window, cuts[: place + 1], note) if note else ()
        return Shortened(Window(head, since), dropped, asked)

    def _asked_for_summary(self, window: Window, cuts: tuple[int, ...], note: int) -> tuple[Message, ...]:
        """Return what is asked for a summary: all that is left out now, or as much of its end as fits."""
        request = Message.user(SUMMARIZE)
        starts, end = (window.since, *cuts[:-1]), cuts[-1]

        def asked(place: int) -> tuple[Message, ...]:
            return (*window.head, *self._messages[starts[place] : end], request)

        place = first_where(len(starts), lambda place: self.count(asked(place)) + note < self.n_ctx)
        return asked(place) if place < len(starts) else ()

    def _by_policy(self, policy: OverflowPolicy, prompt: tuple[Message, ...], room: int) -> Shortened:
        newest = max(0, len(prompt) - (len(self._messages) - self.history.starts[-1]))
        limit = max(1, room - self.reserve)
        chosen = check_messages(policy(ContextWindow(prompt, newest, limit, self.count)))
        if chosen[-1] != prompt[-1]:
            raise InvalidPromptError(
                "the overflow policy must return messages of which the last one is the newest message of the "
                f"conversation; it ended with {chosen[-1]!r:.120}"
            )
        total = self.count(chosen)
        if total > room:
            raise ContextOverflowError(
                f"what the overflow policy returned has {total} tokens, and the prompt may have {room}; drop more",
                prompt_tokens=total,
                context_tokens=self.n_ctx,
            )
        kept = {id(message) for message in chosen}
        dropped = tuple(message for message in prompt if id(message) not in kept)
        return Shortened(Window(chosen, len(self._messages)), dropped)


def first_where(count: int, holds: Callable[[int], bool]) -> int:
    """Return the first of `count` places where `holds`, which then holds for all after it; `count` if for none."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low

"""What was recorded: requests with their replies, and the small answers about tokens and prompts, of each model."""

from __future__ import annotations

from typing import TypeAlias

from attrs import define, field, frozen

from localllm.backends.cassettes.forms import Form, key_of
from localllm.backends.worker.messages import Failure
from localllm.chat.rendered import RenderedPrompt
from localllm.models.info import ModelInfo
from localllm.types import FinishReason, TextDelta, ToolCall, Usage


@frozen
class CutCall:
    """A tool call that the reply's end cut off.

    Args:
        id: What the answer would have referred to.
        name: The tool's name.
        arguments: The JSON text so far.
    """

    id: str
    name: str
    arguments: str


Part: TypeAlias = TextDelta | ToolCall | CutCall
"""A part of a reply: all text up to a change of segment, or a call."""


@frozen(kw_only=True)
class RecordedReply:
    """A reply as it is kept: what was said, without when.

    Args:
        parts: What was said, in order.
        finish_reason: Why it ended.
        usage: Its cost in tokens; cached ones are not kept, for they depend on what was asked before.
        tool_calls: The calls that its end told.
        error: What failed.
        notes: What its end noted.
        taken_chars: As in `GenerationEnded`.
    """

    parts: tuple[Part, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()
    error: Failure | None = None
    notes: tuple[str, ...] = ()
    taken_chars: int = 0


@frozen
class Interaction:
    """A request and its reply.

    Args:
        asked: The request, as the file shows it; see `localllm.backends.cassettes.forms`.
        reply: The reply.
    """

    asked: Form
    reply: RecordedReply
    key: str = field(init=False, repr=False)

    @key.default
    def _key(self) -> str:
        return key_of(self.asked)


@define(eq=False, kw_only=True)
class Tape:
    """What was recorded of one model.

    Args:
        ref: The reference that it was loaded by, without folders.
        config: The part of its configuration that replies depend on.
        info: Its facts.
        interactions: Requests and replies, in the order in which they were asked; None for one under way.
        prompts: What `render` returned or raised, by the messages.
        tokens: What `tokenize` returned, by the text.
        texts: What `detokenize` returned or raised, by the tokens.
    """

    ref: str
    config: Form
    info: ModelInfo
    interactions: list[Interaction | None] = field(factory=list)
    prompts: dict[str, RenderedPrompt | Failure] = field(factory=dict)
    tokens: dict[str, tuple[int, ...]] = field(factory=dict)
    texts: dict[tuple[int, ...], str | Failure] = field(factory=dict)

    def is_of(self, ref: str, config: Form) -> bool:
        """Whether this is what was recorded of the model that `ref` and `config` name."""
        return self.ref == ref and key_of(self.config) == key_of(config)

    @property
    def recorded(self) -> tuple[Interaction, ...]:
        """The requests that have ended."""
        return tuple(one for one in self.interactions if one is not None)


def tape_of(tapes: list[Tape], ref: str, config: Form) -> Tape | None:
    """Return what was recorded of the model that `ref` and `config` name."""
    return next((tape for tape in tapes if tape.is_of(ref, config)), None)

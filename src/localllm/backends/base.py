"""The port: what any backend must do, at the level of a request.

A backend loads models; a loaded model answers requests. The rules that `localllm.testing.check_backend` holds a
backend to:

Threads
    Every method may be called from any thread, also from several at once. `generate` and `cancel` return at once:
    they neither compute nor wait for the model, whatever the prompt. `cancel` may be called from a finalizer, so it
    takes no lock that the caller may hold.

Events
    A request's events reach its sink in order and never two at once: any number of `PromptProgress`, `TextDelta` and
    `ToolCallEvent`s (a start, its deltas, its end, one call after the other), then exactly one `GenerationEnded`, and
    nothing after it. This holds however the request ends; what goes wrong with a request arrives as
    `GenerationEnded("error", error=...)`, never as an exception from `generate`. (After `close`, `generate` raises
    ClosedError: there is no model left to answer.) A sink returns at once and never raises; the backend may call it
    from any thread of its own.

Ends
    "stop": the model ended its turn, or a stop text was met (it is not delivered, not even its first half).
    "length": `max_tokens` or the context window is used up. "tool_calls": the reply asks for calls. "cancelled":
    `cancel` took effect first. "timeout": `timeout_s` passed first, counted from `generate`. "error": see above.
    Usage and timings are given in every case. Cancelling an ended request does nothing.

Ownership
    A backend owns what it loads; a loaded model owns its requests. `LoadedModel.close` ends the running requests as
    "cancelled", then frees everything; it may be called twice, and waits until the work is done.
    `Backend.close` closes its models. Messages and options are frozen values and may be kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

from attrs import frozen

from localllm.chat.definitions import ToolDefinition
from localllm.chat.grammar import Grammar
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.models.info import ModelInfo
from localllm.options import ModelConfig, RequestOptions
from localllm.saved.state import StateUse
from localllm.types import BackendEvent, Message

Sink: TypeAlias = Callable[[BackendEvent], None]
"""Where a request's events go."""


@frozen
class LoadProgress:
    """How far a load is.

    Args:
        phase: What is being done, such as "loading".
        fraction: Of that phase, from 0 to 1; never falls within a phase.
    """

    phase: str
    fraction: float


ProgressCallback: TypeAlias = Callable[[LoadProgress], object]
"""Told how far a load is, on the loading thread. Returning False (and only False) cancels the load."""


@frozen(kw_only=True)
class ModelSpec:
    """A model to load.

    Args:
        ref: The reference as the user gave it.
        path: The file it leads to; None for a backend with `uses_files = False`.
        config: How to load it.
    """

    ref: str
    path: Path | None = None
    config: ModelConfig = ModelConfig()


@frozen(kw_only=True)
class ResumePoint:
    """Where an earlier run of a request was broken off, by a crash of its worker.

    Args:
        token_ids: The tokens that it had generated.
        delivered_chars: Characters of their text that were delivered, thoughts included; text that was held back is
            not among them.
    """

    token_ids: tuple[int, ...] = ()
    delivered_chars: int = 0


Purpose: TypeAlias = Literal["reply", "preload", "complete"]
"""What a request is for; see `GenerateRequest`."""


@frozen(kw_only=True)
class GenerateRequest:
    """One request to a loaded model.

    Args:
        messages: The conversation, oldest first: an optional system message, then turns; never empty.
        options: The options, validated.
        purpose: "reply" to answer; "preload" to read the messages into the cache and generate nothing: no text, the
            finish reason "length", no completion tokens. A backend without a cache ends it at once. "complete" to go on
            with the last message, which is the user's and unfinished: the text is what would follow in the very same
            turn, from its last character on, and ends where the turn would. There are no calls and no thoughts, and
            tools only make the prompt the same. A backend that cannot ends it with UnsupportedError. Both of the latter
            stay behind the replies of others, as far as the backend has an order.
        grammar: What the text must look like. A backend that cannot hold its model to it ends the request with
            UnsupportedError.
        tools: What the model may call, as `options.tool_choice` says.
        prefix: The beginning of the reply, given by the caller: the model goes on from it. It is not delivered, and
            `grammar` is about the whole.
        resume: Where to go on from. Only models with `can_resume` are given one: they read its tokens again, one per
            decode as when they were generated, deliver none of their text twice, and count them as generated.
    """

    messages: tuple[Message, ...]
    options: RequestOptions = RequestOptions()
    purpose: Purpose = "reply"
    grammar: Grammar | None = None
    tools: tuple[ToolDefinition, ...] = ()
    prefix: str = ""
    resume: ResumePoint | None = None


class GenerateHandle(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """Ask for the request to end as soon as it can; returns at once."""


class LoadedModel(ABC):
    """A model that answers requests. See the module's docstring for the rules."""

    can_resume: ClassVar[bool] = False
    """Whether `generate` goes on from `GenerateRequest.resume`. If not, the worker asks for the whole reply again and
    leaves out what was delivered."""

    @property
    @abstractmethod
    def info(self) -> ModelInfo:
        """The model's facts, as loaded."""

    @abstractmethod
    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Begin to answer `request`, pushing events to `sink`; returns at once.

        Raises:
            ClosedError: The model is closed.
        """

    @abstractmethod
    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of `text` as plain text: control tokens are never parsed, none are added.

        Raises:
            ClosedError: The model is closed.
        """

    @abstractmethod
    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of `tokens`, control tokens spelled out, broken UTF-8 replaced by U+FFFD.

        Raises:
            ClosedError: The model is closed.
            InvalidOptionError: A token is not in the vocabulary.
        """

    @abstractmethod
    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the exact prompt for `messages`, ready for the model's reply.

        Args:
            messages: The conversation.
            tools: What the model may call; left out of the call where there are none.

        Raises:
            ClosedError: The model is closed.
            TemplateError: The chat template refuses or fails.
            InvalidOptionError: The model takes no tools.
        """

    def save_state(self, request: GenerateRequest, path: Path, offset: int) -> StateUse:
        """Write what is cached of a request's prompt into a file, from the byte `offset` on, by `append_state`.

        The request is a preload, and is not begun. A backend that has nothing to save leaves the file as it is, and
        says why.

        Raises:
            ClosedError: The model is closed.
            SessionFileError: The file cannot be written.
        """
        return StateUse(why=f"the backend {self.info.backend!r} saves no state")

    def load_state(self, path: Path) -> StateUse:
        """Take a state from a saved session into the cache, as far as it was made by such a model and fits.

        Raises:
            ClosedError: The model is closed.
            SessionFileError: The file cannot be read; DamagedSessionError if it is damaged.
        """
        return StateUse(why=f"the backend {self.info.backend!r} takes no state")

    def on_restart(self, tell: Callable[[], object]) -> None:
        """Have `tell` called whenever what runs the model was started again after a crash, on the backend's thread.

        A model that runs in this process has nothing to tell.
        """
        return

    def on_step(self, tell: Callable[[], object]) -> None:
        """Have `tell` called after each step of the model, once its events are pushed, on the thread that pushed them.

        A worker then sends them at once and together, by that thread. A thread that has told once must tell after
        whatever it pushes later, for nobody else is woken to send that. A model that does not work in steps need not
        tell: its events are sent as they come.
        """
        return

    def memory_bytes(self) -> int:
        """Return the memory that the model takes of its own, as far as the backend knows; 0 if it does not."""
        return 0

    @abstractmethod
    def stats(self) -> ModelStats:
        """Return the figures so far; still answers after `close`."""

    @abstractmethod
    def close(self) -> None:
        """End running requests as cancelled and free everything; a second call does nothing."""


class Backend(ABC):
    """Something that loads models. See the module's docstring for the rules."""

    name: ClassVar[str]
    """What it is called in `ModelInfo.backend`, options and messages."""

    uses_files: ClassVar[bool] = False
    """Whether a reference must lead to a file before `load` is called."""

    @abstractmethod
    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        """Load a model; blocks until it is ready.

        Raises:
            ModelLoadError: It cannot be loaded; `LoadCancelledError` if `on_progress` returned False.
            BackendUnavailableError: A package is missing.
        """

    @abstractmethod
    def close(self) -> None:
        """Close every model that is still open; a second call does nothing."""


def rendered(model: LoadedModel, messages: Sequence[Message], tools: Sequence[ToolDefinition]) -> RenderedPrompt:
    """Return a prompt of `model`, whose `render` need not know of tools until it is asked for some."""
    return model.render(messages, tools=tools) if tools else model.render(messages)

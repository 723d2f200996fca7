"""Every message between an application and its worker. `ToChild` goes to the worker, `ToParent` comes from it.

The protocol has one version for all messages, told in `Start` and `Started`: two processes of different versions
never talk beyond that. "Since" is the version in which a message got its present form.

The order: `Start`, `Started`; `Load`, `LoadedIn`; then `Generate`, `Cancel` and `Ask` as they come, answered by
`Accepted` and `Events` for each request, and by one `Answer` or `Failed` for each question; `Close`, `Closed`. `Beat`
and `Logged` come at any time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from attrs import frozen

from localllm.backends.base import GenerateRequest, LoadProgress, ModelSpec
from localllm.backends.worker.details import kind_of, made
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.models.info import ModelInfo
from localllm.saved.state import StateUse
from localllm.types import BackendEvent, Message

PROTOCOL = 2
"""The protocol's version; a message that changes its form raises it."""

STARTING, LOADING, CLOSING = 0, 1, 2
"""The numbers of the questions that are asked once; those of `Ask` come after them."""

FIRST_FREE = 3

EXIT_PROTOCOL = 76
"""The worker's exit code after a message that is none: EX_PROTOCOL of sysexits.h."""

EXIT_MEMORY = 77
"""The worker's exit code when there is not even memory for a heartbeat."""


@frozen(kw_only=True)
class Failure:
    """An error as a value; part of messages.

    Args:
        kind: The name of a class of `localllm.errors`.
        message: Its text.
        details: What else its class takes, such as `path`, as a JSON object.
        cause: What it came from, as text; empty if it came from nothing.
        notes: What was added to it by `add_note`.
    """

    kind: str
    message: str
    details: str = "{}"
    cause: str = ""
    notes: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        made(kind_of(self.kind), self.message, self.details)  # so that nobody finds out later


@frozen(kw_only=True)
class Start:
    """To the worker, first: what to run. Since 1. Answered by `Started`, or `Failed` with the number `STARTING`.

    Args:
        protocol: The parent's protocol version.
        version: The parent's version of localllm.
        backend: Name or import path of the backend.
        sys_path: Where modules are found; nothing leaves that to the worker's interpreter.
        python_path: The environment's own PYTHONPATH, for what the backend may start; None if there is none.
        beat_s: Seconds between two heartbeats.
        memory_limit_bytes: Memory that the worker may take, see `limits`; None for any.
        log_level: The least level of log records that anybody reads.
    """

    protocol: int
    version: str
    backend: str
    sys_path: tuple[str, ...]
    python_path: str | None = None
    beat_s: float = 1.0
    memory_limit_bytes: int | None = None
    log_level: int = 30


@frozen
class Load:
    """To the worker: load this model, the only one. Since 1. Answered by `Progress` and `LoadedIn` or `Failed`."""

    spec: ModelSpec


@frozen
class Generate:
    """To the worker: begin to answer. Since 1. Answered by `Accepted`, then `Events` to the request's end.

    Args:
        id: The request's number.
        request: What to answer.
    """

    id: int
    request: GenerateRequest


@frozen
class Cancel:
    """To the worker: end a request; nothing if it has ended. Since 1."""

    id: int


@frozen
class Tokenize:
    """A question: the tokens of a text."""

    text: str


@frozen
class Detokenize:
    """A question: the text of tokens."""

    tokens: tuple[int, ...]


@frozen
class Render:
    """A question: the prompt for messages."""

    messages: tuple[Message, ...]
    tools: tuple[ToolDefinition, ...] = ()


@frozen
class Stats:
    """A question: the figures so far."""


@frozen
class SaveState:
    """A question that writes what is cached of a prompt into a file."""

    request: GenerateRequest
    path: Path
    offset: int


@frozen
class LoadState:
    """A question that takes a state from a saved session."""

    path: Path


Question: TypeAlias = Tokenize | Detokenize | Render | Stats | SaveState | LoadState


@frozen
class Ask:
    """To the worker: a question about the model. Since 1. Answered by `Answer` or `Failed` with the same number."""

    id: int
    question: Question


@frozen
class Close:
    """To the worker: end all requests, free the model, and go. Since 1. Answered by `Closed`."""


ToChild: TypeAlias = Start | Load | Generate | Cancel | Ask | Close


@frozen(kw_only=True)
class Started:
    """From the worker, first: the backend is there. Since 1.

    Args:
        protocol: The worker's protocol version.
        version: The worker's version of localllm.
        backend: The backend's name, as in `ModelInfo.backend`.
        uses_files: Whether it loads files.
    """

    protocol: int
    version: str
    backend: str
    uses_files: bool


@frozen
class Progress:
    """From the worker: how far the load is. Since 1."""

    progress: LoadProgress


@frozen(kw_only=True)
class LoadedIn:
    """From the worker: the model is ready. Since 1.

    Args:
        info: Its facts.
    """

    info: ModelInfo


@frozen
class Accepted:
    """From the worker: a request was handed to the backend. Since 1. Without it, a crash had nothing to do with it."""

    id: int


@frozen
class EventOf:
    """One event of one request; part of `Events`."""

    id: int
    event: BackendEvent


@frozen
class Events:
    """From the worker: what requests brought since the last such message, each request's events in order. Since 2."""

    items: tuple[EventOf, ...]


@frozen
class TokensAre:
    """An answer to `Tokenize`."""

    tokens: tuple[int, ...]


@frozen
class TextIs:
    """An answer to `Detokenize`."""

    text: str


@frozen
class PromptIs:
    """An answer to `Render`."""

    prompt: RenderedPrompt


@frozen
class StatsAre:
    """An answer to `Stats`."""

    stats: ModelStats


@frozen
class StateIs:
    """An answer to `SaveState` and `LoadState`."""

    use: StateUse


Finding: TypeAlias = TokensAre | TextIs | PromptIs | StatsAre | StateIs


@frozen
class Answer:
    """From the worker: the answer to a question. Since 1."""

    id: int
    finding: Finding


@frozen
class Failed:
    """From the worker: a start, a load or a question failed. Since 1.

    Args:
        id: Its number: `STARTING`, `LOADING`, or that of the question.
        failure: Why.
    """

    id: int
    failure: Failure


@frozen(kw_only=True)
class Beat:
    """From the worker, now and then: it lives, whatever the backend does. Since 1.

    Args:
        marks: Events that the backend has made since the start: whether it gets on.
        memory_bytes: Memory that the worker has of its own, mapped files not counted; 0 where nobody knows.
    """

    marks: int = 0
    memory_bytes: int = 0


@frozen(kw_only=True)
class Logged:
    """From the worker: a log record. Since 1.

    Args:
        logger: The logger's name.
        level: `logging`'s number of the level.
        text: The formatted message.
    """

    logger: str
    level: int
    text: str


@frozen
class Closed:
    """From the worker, last: all is freed. Since 1.

    Args:
        stats: The model's last figures; None if none was loaded.
    """

    stats: ModelStats | None = None


ToParent: TypeAlias = Started | Progress | LoadedIn | Accepted | Events | Answer | Failed | Beat | Logged | Closed

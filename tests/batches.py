"""What the tests of batches share: models that answer when the test, or their own rule, says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from localllm import (
    BatchResult,
    FakeBackend,
    GenerateRequest,
    GenerationEnded,
    Model,
    ModelConfig,
    ModelInfo,
    ModelManager,
    Sink,
    Usage,
)
from tests.by_hand import Handle, HandModel
from tests.chats import Script

CANCELLED = GenerationEnded("cancelled")
STOP = GenerationEnded("stop", Usage(prompt_tokens=5, completion_tokens=2))


def asked(request: GenerateRequest) -> str:
    """The text of a request's last message."""
    return request.messages[-1].content


def scripted(*script: Script, config: ModelConfig | None = None) -> tuple[Model, FakeBackend]:
    """A model that answers from a script, and its backend."""
    backend = FakeBackend(script)
    return ModelManager(backend).load("fake", config=config), backend


def texts(results: Iterator[BatchResult]) -> dict[str, str]:
    """The replies by key; what failed is told by its error's name."""
    return {
        result.key: type(result.error).__name__ if result.reply is None else result.reply.text for result in results
    }


class Choosing(HandModel):
    """Answers a prompt with its own text as soon as `answers` is true of it.

    Args:
        answers: Asked for each request when it comes.
        window: Replies that it makes at once, as it says; none may wait.

    Attributes:
        came: The text of each request, once it is there.
    """

    def __init__(self, answers: Callable[[str], bool], *, window: int = 4) -> None:
        super().__init__()
        self.answers, self.window = answers, window
        self.came: SimpleQueue[str] = SimpleQueue()

    @property
    def info(self) -> ModelInfo:
        return ModelInfo(name="choosing", backend="hand", n_parallel=self.window)

    def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
        handle = super().generate(request, sink)
        text = asked(request)
        if self.answers(text):
            self.say(text)
            self.end(STOP)
        self.came.put(text)
        return handle


class Late(HandModel):
    """Answers each request when the fourth one after it comes, and remembers none."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[Sink] = deque()

    def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
        self._waiting.append(sink)
        if len(self._waiting) > 4:
            self._waiting.popleft()(STOP)
        return Handle(self, 0, sink)

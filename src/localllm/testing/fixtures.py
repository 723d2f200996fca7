"""What the fixtures of the pytest plugin are: scripted models, and recorded ones. Both work without pytest, too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from localllm.backends.base import Backend, GenerateRequest
from localllm.backends.cassettes.recording import RecordingBackend
from localllm.backends.cassettes.replay import ReplayBackend
from localllm.backends.fake import FakeBackend, FakeReply
from localllm.manager import ModelManager
from localllm.model import Model
from localllm.options import ModelConfig

RecordMode = Literal["none", "once", "new", "all"]
"""What a cassette is used for: to play only; to record where there is no file; to record what it lacks; to record
all of it anew."""


class FakeLLM:
    """Makes models with scripted replies, and closes them; the fixture `fake_llm`.

    ::

        def test_the_bot_greets(fake_llm: FakeLLM) -> None:
            assert greet(fake_llm("Good morning!")) == "Good morning!"
            assert fake_llm.requests[0].messages[-1].content == "Hi"
    """

    def __init__(self) -> None:
        self._backends: list[FakeBackend] = []
        self._closing = ExitStack()

    def __call__(self, *script: str | FakeReply | Exception, config: ModelConfig | None = None) -> Model:
        """Return a model that replies with `script`.

        Args:
            script: The replies: a str for its text, a FakeReply for more, an exception for one that fails.
            config: How to load it, such as `ModelConfig(n_ctx=512)`.
        """
        return self._closing.enter_context(ModelManager(self.backend(*script))).load("fake", config=config)

    def backend(self, *script: str | FakeReply | Exception) -> FakeBackend:
        """Return a backend whose models reply with `script`, for an application that loads its models itself."""
        backend = FakeBackend(script)
        self._backends.append(backend)
        return backend

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        """The replies asked for so far; those of several models or backends one after the other."""
        return tuple(request for backend in self._backends for request in backend.requests)

    def close(self) -> None:
        """Close every model."""
        self._closing.close()
        for backend in self._backends:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LLMCassette:
    """A model's replies, recorded once and played from then on; the fixture `llm_cassette`.

    ::

        def test_a_summary_is_short(llm_cassette: LLMCassette) -> None:
            model = llm_cassette.load("smollm2-135m")
            assert len(summarize(model, TEXT)) < 300

    Args:
        path: The file.
        mode: Whether to play or to record.
        real_backend: Called where something is recorded: what `RecordingBackend` takes.
        command: How to record with another mode, for error messages; `{mode}` stands for the mode.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: RecordMode = "none",
        real_backend: Callable[[], Backend | str | None] = lambda: None,
        command: str = "LLMCassette(path, mode='{mode}')",
    ) -> None:
        self.path = path
        self.recording: bool = mode in ("new", "all") or (mode == "once" and not path.exists())
        self._mode = mode
        self._real_backend = real_backend
        self._command = command
        self._backend: RecordingBackend | ReplayBackend | None = None
        self._models: ModelManager | None = None

    @property
    def backend(self) -> RecordingBackend | ReplayBackend:
        """What plays or records, for an application that loads its models itself: `ModelManager(cassette.backend)`."""
        if self._backend is None:
            if self.recording:
                self._backend = RecordingBackend(self._real_backend(), self.path, keep=self._mode == "new")
            else:
                command = self._command.replace("{mode}", "all" if self.path.exists() else "once")
                self._backend = ReplayBackend(self.path, advice=f"to record it: {command}")
        return self._backend

    def load(self, ref: str | PathLike[str], *, config: ModelConfig | None = None) -> Model:
        """Return a model: the real one where it is recorded, else what plays its replies.

        Args:
            ref: As for `ModelManager.load`. Where it is played, the model need not be there, nor llama.cpp.
            config: How to load it.

        Raises:
            CassetteError: There is no cassette, it cannot be read, or it was recorded with another model.
        """
        if self._models is None:
            self._models = ModelManager(self.backend)
        return self._models.load(ref, config=config)

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        """The replies asked for so far, oldest first; preloads are left out."""
        return () if self._backend is None else self._backend.requests

    def close(self) -> None:
        """Close every model, and write what was recorded.

        Raises:
            CassetteError: The file cannot be written.
        """
        with ExitStack() as closing:
            if self._backend is not None:
                closing.callback(self._backend.close)
            if self._models is not None:
                closing.callback(self._models.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

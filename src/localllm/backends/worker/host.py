"""The backend's side of the protocol: runs the backend and turns messages into calls of the port, and back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import assert_never

from attrs import evolve

from localllm._version import __version__
from localllm.backends.base import (
    Backend,
    GenerateHandle,
    GenerateRequest,
    LoadedModel,
    LoadProgress,
    Sink,
    rendered,
)
from localllm.backends.lookup import backend_maker
from localllm.backends.worker.failures import to_failure
from localllm.backends.worker.messages import (
    LOADING,
    PROTOCOL,
    STARTING,
    Accepted,
    Answer,
    Ask,
    Cancel,
    Closed,
    Detokenize,
    Failed,
    Finding,
    Generate,
    Load,
    LoadedIn,
    LoadState,
    Progress,
    PromptIs,
    Question,
    Render,
    SaveState,
    Start,
    Started,
    StateIs,
    Stats,
    StatsAre,
    TextIs,
    Tokenize,
    TokensAre,
)
from localllm.backends.worker.outbox import Outbox
from localllm.errors import (
    BackendError,
    ClosedError,
    LocalLLMError,
    ModelLoadError,
    WorkerMemoryError,
    WorkerStartError,
)
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)


class Host:
    """Runs a backend for a parent.

    `start`, `load`, `ask` and `close` are for one thread, `generate` and `cancel` for one other: a long load or
    question keeps no request waiting.

    Args:
        outbox: Where everything for the parent goes.
        on_step: Told when the events of a step are in there, on the thread that put them in; see `LoadedModel.on_step`.
    """

    def __init__(self, outbox: Outbox, on_step: Callable[[], object]) -> None:
        self._outbox = outbox
        self._on_step = on_step
        self._backend: Backend | None = None
        self._model: LoadedModel | None = None
        self._lock = threading.Lock()  # guards the handles; nothing of the backend is called under it
        self._handles: dict[int, GenerateHandle | None] = {}

    def start(self, start: Start) -> bool:
        """Make the backend and say so; False if that failed, which was said, too."""
        try:
            if (start.protocol, start.version) != (PROTOCOL, __version__):
                raise WorkerStartError(
                    f"the worker is localllm {__version__} (protocol {PROTOCOL}), and the application is "
                    f"{start.version} (protocol {start.protocol}); let both find the same installation"
                )
            backend = self._backend = backend_maker(start.backend)()
        except Exception as exc:  # noqa: BLE001  # whatever it is, the parent raises it
            self._outbox.put(Failed(STARTING, to_failure(exc, WorkerStartError)))
            return False
        self._outbox.put(
            Started(protocol=PROTOCOL, version=__version__, backend=backend.name, uses_files=backend.uses_files)
        )
        return True

    def load(self, load: Load) -> None:
        """Load the model and say so."""
        try:
            if self._backend is None or self._model is not None:
                raise ModelLoadError("a worker loads one model, once, after it was started")
            self._model = self._backend.load(load.spec, self._tell)
            self._model.on_step(self._on_step)
            self._outbox.put(LoadedIn(info=self._model.info))
        except Exception as exc:  # noqa: BLE001  # whatever it is, the parent raises it
            error = _out_of_memory(exc) if isinstance(exc, MemoryError) else exc
            self._outbox.put(Failed(LOADING, to_failure(error, ModelLoadError)))

    def ask(self, ask: Ask) -> None:
        """Answer a question."""
        try:
            self._outbox.put(Answer(ask.id, self._find(ask.question)))
        except Exception as exc:  # noqa: BLE001  # whatever it is, the parent raises it
            self._outbox.put(Failed(ask.id, to_failure(exc)))

    def generate(self, message: Generate) -> None:
        """Hand a request to the backend."""
        self._outbox.put(Accepted(message.id))
        with self._lock:
            self._handles[message.id] = None
        try:
            model = self._loaded()
            request, sink = _resumed(message.request, self._sink(message.id), model)
            handle = model.generate(request, sink)
        except Exception as exc:  # noqa: BLE001  # a request's failure is its own
            self._deliver(message.id, GenerationEnded("error", error=_ours(exc, "generate")))
            return
        with self._lock:
            if message.id in self._handles:  # else it has ended already
                self._handles[message.id] = handle

    def cancel(self, message: Cancel) -> None:
        """End a request, unless it has ended."""
        with self._lock:
            handle = self._handles.get(message.id)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Close the model and the backend, and say so."""
        stats = None
        if self._model is not None:
            self._model.close()
            stats = self._model.stats()
        if self._backend is not None:
            self._backend.close()
        self._outbox.put(Closed(stats))

    def _tell(self, progress: LoadProgress) -> None:
        self._outbox.put(Progress(progress))

    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise ClosedError("no model is loaded")
        return self._model

    def _find(self, question: Question) -> Finding:
        model = self._loaded()
        match question:
            case Tokenize():
                return TokensAre(model.tokenize(question.text))
            case Detokenize():
                return TextIs(model.detokenize(question.tokens))
            case Render():
                return PromptIs(rendered(model, question.messages, question.tools))
            case Stats():
                return StatsAre(model.stats())
            case SaveState():
                return StateIs(model.save_state(question.request, question.path, question.offset))
            case LoadState():
                return StateIs(model.load_state(question.path))
            case _:
                assert_never(question)

    def _sink(self, request: int) -> Sink:
        return lambda event: self._deliver(request, event)

    def _deliver(self, request: int, event: BackendEvent) -> None:
        """Send an event on; a backend that breaks the port's rules ends that request, and not the worker."""
        broken = _broken(event)
        if broken:
            event = GenerationEnded("error", error=BackendError(f"the backend sent {broken}"))
        elif isinstance(event, GenerationEnded) and event.error is not None:
            cause = event.error.__cause__
            event = evolve(event, error=_out_of_memory(cause)) if isinstance(cause, MemoryError) else event
        if not isinstance(event, GenerationEnded):
            if request in self._handles:
                self._outbox.put_event(request, event)
            return
        with self._lock:
            if request not in self._handles:  # after its end
                return
            handle = self._handles.pop(request)
        self._outbox.put_event(request, event)
        if broken and handle is not None:
            handle.cancel()


class _Skipping:
    """A sink for a reply that is made again from its start: leaves out what was delivered before the crash."""

    def __init__(self, sink: Sink, chars: int) -> None:
        self._sink = sink
        self._chars = chars

    def __call__(self, event: BackendEvent) -> None:
        if isinstance(event, TextDelta) and self._chars:
            skipped = min(self._chars, len(event.text))
            self._chars -= skipped
            event = evolve(event, text=event.text[skipped:])
            if not event.text:
                return
        self._sink(event)


def _resumed(request: GenerateRequest, sink: Sink, model: LoadedModel) -> tuple[GenerateRequest, Sink]:
    if request.resume is None or model.can_resume:
        return request, sink
    return evolve(request, resume=None), _Skipping(sink, request.resume.delivered_chars)


def _broken(event: object) -> str:
    """Return what is wrong with something that a backend pushed, or nothing."""
    match event:
        case TextDelta():
            try:
                event.text.encode()
            except UnicodeEncodeError:
                return f"a text with lone surrogates: {event.text!r:.80}"
            return ""
        case PromptProgress() | ToolCallStarted() | ToolCallDelta() | ToolCallEnded() | GenerationEnded():
            return ""
        case _:
            return f"what is no event: {event!r:.80}"


def _ours(exc: Exception, what: str) -> LocalLLMError:
    if isinstance(exc, LocalLLMError):
        return exc
    if isinstance(exc, MemoryError):
        return _out_of_memory(exc)
    error = BackendError(f"the backend failed in {what}: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _out_of_memory(exc: MemoryError) -> LocalLLMError:
    error = WorkerMemoryError(f"the worker is out of memory ({exc!r:.200}); raise memory_limit_bytes")
    error.__cause__ = exc
    return error

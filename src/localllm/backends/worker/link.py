"""One worker process from its start to its end: handshake, load, questions, and the way of requests and events."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias, TypeVar, assert_never

from attrs import frozen

from localllm._version import __version__
from localllm.backends.base import ModelSpec, ProgressCallback
from localllm.backends.worker import process as processes
from localllm.backends.worker.channel import Channel
from localllm.backends.worker.failures import to_error
from localllm.backends.worker.liveness import BEATS, TICKS, Liveness
from localllm.backends.worker.messages import (
    CLOSING,
    FIRST_FREE,
    LOADING,
    PROTOCOL,
    STARTING,
    Accepted,
    Answer,
    Ask,
    Beat,
    Cancel,
    Close,
    Closed,
    Events,
    Failed,
    Finding,
    Generate,
    Load,
    LoadedIn,
    Logged,
    Progress,
    Question,
    Start,
    Started,
    ToChild,
    ToParent,
)
from localllm.backends.worker.obituary import obituary
from localllm.engine.stats import ModelStats
from localllm.errors import (
    ClosedError,
    GenerationTimeoutError,
    LoadCancelledError,
    LoadTimeoutError,
    LocalLLMError,
    WorkerCrashedError,
    WorkerFrozenError,
    WorkerProtocolError,
    WorkerStartTimeoutError,
)
from localllm.options import Timeouts
from localllm.types import BackendEvent, GenerationEnded

_log = logging.getLogger("localllm.worker")

_SLICE_S = 0.1  # a wait ends now and then to let Ctrl-C in, see `localllm.pump`

_Slot: TypeAlias = "SimpleQueue[ToParent | LocalLLMError]"
_M = TypeVar("_M")


@frozen(kw_only=True)
class Launch:
    """How to start a worker.

    Args:
        backend: Name or import path of the backend.
        timeouts: How long it may take for what.
        memory_limit_bytes: Memory that it may have.
        interpreter: The Python to run; None is the one that runs this.
    """

    backend: str
    timeouts: Timeouts = Timeouts()
    memory_limit_bytes: int | None = None
    interpreter: str | None = None


class Listener(Protocol):
    """Told what comes from a worker, on its reader's thread, and so never twice at once."""

    def on_accepted(self, request: int) -> None:
        """The backend was given a request."""

    def on_event(self, request: int, event: BackendEvent) -> None:
        """A request brought an event."""

    def on_gone(self, link: Link) -> None:
        """The worker has ended, see `Link.gone`; the last call, and perhaps not the only one of its kind."""


class Link:
    """A worker process. Safe to use from any thread; `post` and `kill` return at once.

    Args:
        launch: How to start it.

    Raises:
        WorkerStartError: It cannot be started.
    """

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._channel = Channel(launch.interpreter, self)
        self._listener: Listener | None = None
        self._slots: dict[int, _Slot] = {}
        self._numbers = itertools.count(FIRST_FREE)
        self._doing = "starting"
        self._reason: LocalLLMError | None = None
        self._looking = threading.Lock()
        self._looked_s = 0.0
        self._liveness = Liveness(launch.timeouts.heartbeat_s)
        self.began_s: float = time.monotonic()
        self.beat: Beat = Beat()
        self.gone: LocalLLMError | None = None
        """Why it has ended; None while it runs."""
        self.ended: threading.Event = threading.Event()
        self._channel.open()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._channel.pid

    @property
    def tick_s(self) -> float:
        """How often `look` wants to be called."""
        return self._launch.timeouts.heartbeat_s / TICKS

    def start(self) -> Started:
        """Have the backend made, and wait for it.

        Raises:
            WorkerStartTimeoutError: It took too long.
            WorkerStartError: The worker is of another version.
            WorkerCrashedError: It ended.
            LocalLLMError: What making the backend raised.
        """
        root = logging.getLogger("localllm")
        slot = self._slot(STARTING)
        self.post(
            Start(
                protocol=PROTOCOL,
                version=__version__,
                backend=self._launch.backend,
                sys_path=processes.sys_path() if self._launch.interpreter is None else (),
                python_path=processes.python_path(),
                beat_s=min(1.0, self._launch.timeouts.heartbeat_s / BEATS),
                memory_limit_bytes=self._launch.memory_limit_bytes,
                log_level=root.getEffectiveLevel(),
            )
        )
        limit_s = self._launch.timeouts.start_s
        late = WorkerStartTimeoutError(
            f"the worker with the backend {self._launch.backend!r} was not ready within Timeouts.start_s={limit_s} s"
        )
        return self._expect(Started, self._wait(STARTING, slot, _deadline(limit_s), late))

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None) -> LoadedIn:
        """Load a model, and wait for it. `on_progress` is called on the calling thread.

        Raises:
            LoadTimeoutError: It took too long.
            LoadCancelledError: `on_progress` returned False; the worker was ended.
            WorkerCrashedError: The worker ended.
            LocalLLMError: What the load raised.
        """
        self._doing = f"loading {spec.ref!r}"
        slot = self._slot(LOADING)
        self.post(Load(spec))
        limit_s = self._launch.timeouts.load_s
        late = LoadTimeoutError(f"{spec.ref!r} was not loaded within Timeouts.load_s={limit_s} s")
        deadline = _deadline(limit_s)
        while True:
            message = self._wait(LOADING, slot, deadline, late, keep=True)
            if not isinstance(message, Progress):
                del self._slots[LOADING]
                self._doing = f"running {spec.ref!r}"
                return self._expect(LoadedIn, message)
            if on_progress is not None and on_progress(message.progress) is False:
                self._slots.pop(LOADING, None)
                error = LoadCancelledError(f"loading {spec.ref!r} was cancelled by on_progress")
                self.kill(error)
                raise error  # at once: that it is loaded may be on its way already

    def ask(self, question: Question) -> Finding:
        """Ask, and wait for the answer.

        Raises:
            GenerationTimeoutError: It took too long; the worker was ended.
            WorkerCrashedError: The worker ended.
            LocalLLMError: What the model raised.
        """
        number = next(self._numbers)
        slot = self._slot(number)
        self.post(Ask(number, question))
        timeouts = self._launch.timeouts
        limit_s = None if timeouts.first_token_s is None else timeouts.first_token_s + timeouts.close_s
        late = GenerationTimeoutError(f"the model did not answer {type(question).__name__} within {limit_s} s")
        return self._expect(Answer, self._wait(number, slot, _deadline(limit_s), late)).finding

    def listen(self, listener: Listener) -> None:
        """Tell `listener` what comes from now on."""
        self._listener = listener
        if self.gone is not None:
            listener.on_gone(self)

    def post(self, message: ToChild) -> None:
        """Send a message; returns at once, takes no lock, and may be called from a finalizer."""
        self._channel.post(message)

    def look(self, now_s: float) -> None:
        """End the worker if it is frozen. To be called every `tick_s`."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._look(now_s)
        finally:
            self._looking.release()

    def _look(self, now_s: float) -> None:
        heard_s = self._channel.heard_s  # nothing until the interpreter is up: that is for the limit of the start
        # Who waits for an answer looks, too; two looks right after each other would see the same, and learn nothing.
        if heard_s is None or self.gone is not None or now_s - self._looked_s < 0.9 * self.tick_s:
            return
        self._looked_s = now_s
        if not self._liveness.is_silent(now_s, heard_s):
            return
        if self._liveness.is_frozen(processes.activity(self.pid)):
            limit_s = self._launch.timeouts.heartbeat_s
            self.kill(
                WorkerFrozenError(
                    f"the worker (pid {self.pid}), {self._doing}, is frozen: it gave no sign of life for nearly "
                    f"{limit_s:g} s (Timeouts.heartbeat_s) and did not compute either. It was ended"
                )
            )

    def close(self) -> ModelStats | None:
        """Ask the worker to go, make it go if it does not, and wait; returns the model's last figures, if they came."""
        slot = self._slot(CLOSING)
        self._doing = "closing"
        self.post(Close())
        if not self.ended.wait(self._launch.timeouts.close_s):
            _log.warning(
                "the worker (pid %s) did not close within Timeouts.close_s=%g s and was ended",
                self.pid,
                self._launch.timeouts.close_s,
            )
            self.kill(ClosedError("the model is closed"))
            self.ended.wait()
        closed = slot.get()
        return closed.stats if isinstance(closed, Closed) else None

    def kill(self, reason: LocalLLMError) -> None:
        """End the worker now, for this `reason`."""
        if self._reason is None:
            self._reason = reason
        self._channel.kill()

    def on_own_thread(self) -> bool:
        """Whether this is the thread that hands events over, which must not wait for the worker's end."""
        return self._channel.on_own_thread()

    def _slot(self, number: int) -> _Slot:
        slot: _Slot = SimpleQueue()
        self._slots[number] = slot
        if self.gone is not None:  # the reader fills all slots that it sees after it has set `gone`
            slot.put(self.gone)
        return slot

    def _wait(
        self, number: int, slot: _Slot, deadline_s: float | None, late: LocalLLMError, *, keep: bool = False
    ) -> ToParent:
        """Return what comes for a question; ends the worker when that is too late, or it is frozen."""
        try:
            while (message := _get(slot, min(_SLICE_S, self.tick_s))) is None:
                now_s = time.monotonic()
                self.look(now_s)
                if deadline_s is not None and now_s > deadline_s:
                    # Others that it had to answer learn of a crash; who waited here, of the limit.
                    self.kill(WorkerCrashedError(f"the worker (pid {self.pid}) was ended: {late}"))
                    raise late
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                self._slots.pop(number, None)
        if isinstance(message, LocalLLMError):
            raise message
        if isinstance(message, Failed):
            raise to_error(message.failure)
        return message

    def _expect(self, kind: type[_M], message: ToParent) -> _M:
        if not isinstance(message, kind):
            error = WorkerProtocolError(f"the worker sent {type(message).__name__} in place of {kind.__name__}")
            self.kill(error)
            raise error
        return message

    def on_broken(self, error: LocalLLMError) -> None:
        """See `Receiver`."""
        self.kill(error)

    def on_end(self, code: int, lines: tuple[str, ...], pending_bytes: int) -> None:
        """See `Receiver`."""
        self.gone = self._reason or obituary(
            doing=self._doing,
            pid=self.pid,
            code=code,
            lines=lines,
            memory_limit_bytes=self._launch.memory_limit_bytes,
            pending_bytes=pending_bytes,
        )
        for slot in list(self._slots.values()):
            slot.put(self.gone)
        self.ended.set()
        if self._listener is not None:
            self._listener.on_gone(self)

    def on_message(self, message: ToParent) -> None:
        """See `Receiver`."""
        match message:
            case Events():
                if self._listener is not None:
                    for item in message.items:
                        self._listener.on_event(item.id, item.event)
            case Accepted():
                if self._listener is not None:
                    self._listener.on_accepted(message.id)
            case Beat():
                self.beat = message
            case Logged():
                _pass_on(message)
            case Started():
                self._fill(STARTING, message)
            case Progress() | LoadedIn():
                self._fill(LOADING, message)
            case Closed():
                self._reason = self._reason or ClosedError("the model is closed; load it again")
                self._fill(CLOSING, message)
            case Answer() | Failed():
                self._fill(message.id, message)
            case _:
                assert_never(message)

    def _fill(self, number: int, message: ToParent | LocalLLMError) -> None:
        slot = self._slots.get(number)
        if slot is not None:  # else nobody waits for it any more
            slot.put(message)

    def on_refused(self, message: ToChild, error: LocalLLMError) -> None:
        """See `Receiver`; tells whoever sent the message."""
        match message:
            case Generate():
                if self._listener is not None:
                    self._listener.on_event(message.id, GenerationEnded("error", error=error))
            case Ask():
                self._fill(message.id, error)
            case Load():
                self._fill(LOADING, error)
            case Start() | Cancel() | Close():
                self._fill(STARTING, error)
            case _:
                assert_never(message)


def _pass_on(record: Logged) -> None:
    own = record.logger == "localllm" or record.logger.startswith("localllm.")
    logger = logging.getLogger(record.logger if own else f"localllm.worker.{record.logger}")
    logger.log(record.level, "%s", record.text)


def _get(slot: _Slot, wait_s: float) -> ToParent | LocalLLMError | None:
    try:
        return slot.get(timeout=wait_s)
    except Empty:
        return None


def _deadline(limit_s: float | None) -> float | None:
    return None if limit_s is None else time.monotonic() + limit_s

"""The port's adapter: any backend, each of its models in a process of its own."""

from __future__ import annotations

import os
import threading
import time

from attrs import frozen

from localllm.backends.base import Backend, ModelSpec, ProgressCallback
from localllm.backends.lookup import OnCrash
from localllm.backends.worker.info import WorkerInfo
from localllm.backends.worker.link import Launch, Link
from localllm.backends.worker.messages import LoadedIn
from localllm.backends.worker.model import WorkerModel
from localllm.backends.worker.supervisor import Supervisor
from localllm.errors import ClosedError, ForkedError


@frozen(kw_only=True)
class WorkerOptions:
    """How models are run in workers.

    Args:
        launch: How to start a worker.
        on_crash: What becomes of the replies that a crash interrupts.
    """

    launch: Launch
    on_crash: OnCrash = "raise"


class WorkerBackend(Backend):
    """Loads models, each into a worker of its own. Made by `worker_backend`, which knows what is in the worker.

    Args:
        options: How models are run.
        spare: A worker that is started already, for the first load.
    """

    def __init__(self, options: WorkerOptions, spare: Link | None = None) -> None:
        self._options = options
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards what follows; nothing that waits is called under it
        self._spare = spare
        self._loading: dict[Link, str] = {}
        self._models: list[WorkerModel] = []
        self._closed = False

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> WorkerModel:
        """Load a model in a new worker; see `Backend.load`. `on_progress` is called on the calling thread.

        Raises:
            WorkerStartError: The worker cannot be started; WorkerStartTimeoutError if that takes too long.
            WorkerCrashedError: The worker ended.
            LoadTimeoutError: The load takes too long.
            LocalLLMError: As the backend's own load.
        """
        link, started = self._take(spec)
        try:
            if not started:
                link.start()
            loaded = link.load(spec, on_progress)
            return self._keep(link, loaded, spec)
        except BaseException:
            link.kill(ClosedError("the load has failed"))
            link.ended.wait()
            raise
        finally:
            with self._lock:
                self._loading.pop(link, None)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return what there is to see of the workers, the oldest first."""
        with self._lock:
            loading, models = dict(self._loading), list(self._models)
        now_s = time.monotonic()
        return (
            *(model.worker() for model in models),
            *(
                WorkerInfo(pid=link.pid, state="loading", models=(ref,), uptime_s=now_s - link.began_s)
                for link, ref in loading.items()
            ),
        )

    def close(self) -> None:
        """End running loads, and close every model that is still open; a second call does nothing."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            models, loading = list(self._models), list(self._loading)
            spare, self._spare = self._spare, None
        for link in [*loading, *([spare] if spare is not None else [])]:
            link.kill(ClosedError(f"the backend {self.name!r} was closed"))
        if spare is not None:
            spare.ended.wait()
        for model in models:
            model.close()

    def _take(self, spec: ModelSpec) -> tuple[Link, bool]:
        """Return a worker for a load, and whether it is started already."""
        if os.getpid() != self._pid:
            raise ForkedError(f"this backend belongs to the process {self._pid}; make a new one after a fork()")
        with self._lock:
            self._check_open()
            spare, self._spare = self._spare, None
        link = spare if spare is not None and spare.gone is None else Link(self._options.launch)
        with self._lock:
            self._loading[link] = spec.ref
            closed = self._closed
        if closed:
            link.kill(ClosedError(f"the backend {self.name!r} was closed"))
        return link, link is spare

    def _keep(self, link: Link, loaded: LoadedIn, spec: ModelSpec) -> WorkerModel:
        def bring_up(again: Link) -> None:
            again.start()
            again.load(spec, None)

        launch = self._options.launch
        supervisor = Supervisor(
            link, loaded.info.name, lambda: Link(launch), bring_up, launch.timeouts, self._options.on_crash
        )
        model = WorkerModel(loaded.info, supervisor, self._forget)
        with self._lock:
            if not self._closed:
                self._models.append(model)
                return model
        model.close()
        raise ClosedError(f"the backend {self.name!r} was closed")

    def _forget(self, model: WorkerModel) -> None:
        with self._lock:
            if model in self._models:
                self._models.remove(model)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"the backend {self.name!r} is closed; make a new one")


def worker_backend(options: WorkerOptions, *, described: tuple[str, bool] | None = None) -> WorkerBackend:
    """Return the backend that `options.launch` names, in workers.

    Args:
        options: How models are run.
        described: The backend's name and whether it uses files, where that is known. If not, a worker is asked, which
            then serves the first load.

    Raises:
        WorkerStartError: The worker cannot be started.
        LocalLLMError: What making the backend raised.
    """
    spare: Link | None = None
    if described is None:
        spare = Link(options.launch)
        try:
            started = spare.start()
        except BaseException:
            spare.kill(ClosedError("the start has failed"))
            spare.ended.wait()
            raise
        described = (started.backend, started.uses_files)

    backend_name, files = described

    class Described(WorkerBackend):
        name = backend_name
        uses_files = files

    return Described(options, spare)

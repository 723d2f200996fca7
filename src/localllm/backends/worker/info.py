"""What an application can see of its workers."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

WorkerState = Literal["loading", "ready", "busy", "restarting", "down", "closed"]
"""What a worker does: "ready" waits for requests, "busy" answers some; "down" has crashed and starts on next use."""


@frozen(kw_only=True)
class WorkerInfo:
    """A worker process, as it was when asked.

    Args:
        pid: The process's number; None while there is no process.
        state: What it does.
        models: The models in it.
        uptime_s: Seconds since the process was started.
        restarts: How often it has been started again after a crash.
        memory_bytes: Memory of its own as of its last heartbeat, mapped weights not counted; 0 while unknown.
        running: Requests that it has not answered yet.
    """

    pid: int | None
    state: WorkerState
    models: tuple[str, ...] = ()
    uptime_s: float = 0.0
    restarts: int = 0
    memory_bytes: int = 0
    running: int = 0

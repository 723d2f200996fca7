"""The backend that a manager's options choose, and what is wrong with options that choose none."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal, TypeAlias

from localllm.backends.base import Backend
from localllm.backends.lookup import LLAMA_CPP, OnCrash, backend_maker, in_workers
from localllm.errors import InvalidOptionError
from localllm.options import Timeouts

Isolation: TypeAlias = Literal["process", "thread"]
"""Where a backend runs."""


def choose_backend(
    backend: Backend | str | None,
    *,
    isolation: Isolation | None,
    on_crash: OnCrash,
    timeouts: Timeouts,
    memory_limit_bytes: int | None,
    interpreter: str | os.PathLike[str] | None,
) -> Callable[[], Backend]:
    """Return what makes the backend; an instance is returned as it is. The options are those of `ModelManager`.

    Raises:
        InvalidOptionError: No such backend, no such isolation for it, or an option out of range.
        BackendUnavailableError: The backend's module does not import.
    """
    _check_isolation(isolation, backend)
    if on_crash not in ("raise", "resume"):
        raise InvalidOptionError(f"on_crash must be 'raise' or 'resume'; got {on_crash!r:.80}")
    if not isinstance(timeouts, Timeouts):
        raise InvalidOptionError(f"timeouts must be a Timeouts, such as Timeouts(load_s=60); got {timeouts!r:.80}")
    if isinstance(backend, Backend) or isolation == "thread":
        _check_no_process(memory_limit_bytes=memory_limit_bytes, interpreter=interpreter)
    if isinstance(backend, Backend):
        instance = backend
        return lambda: instance
    if backend is not None and not isinstance(backend, str):
        raise InvalidOptionError(
            f"backend must be a Backend, the name of one, or None for {LLAMA_CPP}; got {backend!r:.80}"
        )
    if isolation == "thread":
        return backend_maker(backend or LLAMA_CPP)
    return in_workers(
        LLAMA_CPP if backend is None else backend,
        on_crash=on_crash,
        timeouts=timeouts,
        memory_limit_bytes=memory_limit_bytes,
        interpreter=None if interpreter is None else os.fspath(interpreter),
    )


def _check_no_process(**options: object) -> None:
    """Refuse options that would be without effect in this process, and whose absence would be a surprise."""
    for name, value in options.items():
        if value is not None:
            raise InvalidOptionError(f"{name} is for models in processes of their own; use isolation='process'")


def _check_isolation(isolation: Isolation | None, backend: Backend | str | None) -> None:
    match isolation:
        case None | "thread":
            return
        case "process" if isinstance(backend, Backend):
            raise InvalidOptionError(
                "an instance of a backend cannot run in a process of its own; pass its import path "
                "('package.module:Class') as `backend`, or leave isolation out"
            )
        case "process":
            return
        case _:
            raise InvalidOptionError(f"isolation must be 'process', 'thread' or None; got {isolation!r:.80}")

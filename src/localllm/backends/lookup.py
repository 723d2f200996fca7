"""Finds the backend that a user names: llama.cpp, or a class by its import path."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from localllm.backends.base import Backend
from localllm.backends.worker.limits import check_memory_limit
from localllm.errors import BackendUnavailableError, InvalidOptionError, LocalLLMError
from localllm.options import Timeouts

if TYPE_CHECKING:  # loaded only where a worker is asked for
    from localllm.backends.worker.info import WorkerInfo

LLAMA_CPP = "llama.cpp"

OnCrash = Literal["raise", "resume"]
"""What becomes of the replies that a crash of their worker interrupts."""

_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def backend_maker(name: str) -> Callable[[], Backend]:
    """Return what makes the backend `name`.

    Args:
        name: "llama.cpp", or "package.module:Class" for a subclass of Backend that needs no arguments.

    Raises:
        InvalidOptionError: It is neither, or what it leads to is no such class.
        BackendUnavailableError: The module does not import.
    """
    if name == LLAMA_CPP:
        return _llama_cpp
    _check_import_path(name)
    kind = _class_of(name)
    return lambda: _made(kind, name)


def _class_of(name: str) -> type[Backend]:
    """Return the class that an import path leads to."""
    module_name, _, class_path = name.partition(":")
    found = _import(module_name, name)
    for part in class_path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, Backend):
        is_what = f"is {found!r:.80}, not a subclass of localllm.Backend" if found is not None else "does not exist"
        raise InvalidOptionError(f"backend {name!r}: {class_path!r} in the module {module_name!r} {is_what}")
    return found


def in_workers(
    name: str,
    *,
    on_crash: OnCrash,
    timeouts: Timeouts,
    memory_limit_bytes: int | None = None,
    interpreter: str | None = None,
) -> Callable[[], Backend]:
    """Return what makes the backend `name` in worker processes. Its module is not imported here, only looked for.

    Args:
        name: As for `backend_maker`.
        on_crash: What becomes of the replies that a crash interrupts.
        timeouts: How long a worker may take for what.
        memory_limit_bytes: Memory that a worker may have.
        interpreter: The Python that runs a worker; None is the one that runs this.

    Raises:
        InvalidOptionError: It is neither a name nor an import path, or there can be no such limit.
        BackendUnavailableError: There is no such module.
    """
    check_memory_limit(memory_limit_bytes)
    if name != LLAMA_CPP:
        _check_import_path(name)
        _find(name, name.partition(":")[0], own_python=interpreter is None)

    def make() -> Backend:
        # Imported here: an application without workers need not have what they need.
        from localllm.backends.worker.backend import WorkerOptions, worker_backend
        from localllm.backends.worker.link import Launch

        launch = Launch(backend=name, timeouts=timeouts, memory_limit_bytes=memory_limit_bytes, interpreter=interpreter)
        options = WorkerOptions(launch=launch, on_crash=on_crash)
        if name != LLAMA_CPP:
            return worker_backend(options)
        # Looked for, not imported: that is the worker's business.
        if interpreter is None and importlib.util.find_spec("llama_cpp") is None:
            raise BackendUnavailableError(
                'the llama.cpp backend needs llama-cpp-python: pip install "localllm[llama]" '
                "(there is no module llama_cpp)"
            )
        return worker_backend(options, described=(LLAMA_CPP, True))

    return make


def workers_of(backend: Backend | None) -> tuple[WorkerInfo, ...]:
    """Return what there is to see of a backend's workers; nothing if it runs in this process."""
    if backend is None:
        return ()
    from localllm.backends.worker.backend import WorkerBackend

    return backend.workers() if isinstance(backend, WorkerBackend) else ()


def _check_import_path(name: str) -> None:
    if not _IMPORT_PATH.fullmatch(name):
        raise InvalidOptionError(
            f"unknown backend {name!r:.80}; use {LLAMA_CPP!r}, an import path such as 'package.module:Class', "
            "or an instance of Backend"
        )


def _find(name: str, module_name: str, *, own_python: bool) -> None:
    """Raise an error if a worker will not find this module; whether it imports there only the worker can tell."""
    if module_name == "__main__":
        raise InvalidOptionError(
            f"backend {name!r}: a worker does not run your program, so it has another __main__; move the class to a "
            "module of its own, or use isolation='thread'"
        )
    if module_name in sys.modules:
        _class_of(name)  # it costs nothing here to see whether that is there, too
    if not own_python:
        return
    try:
        found = importlib.util.find_spec(module_name)
    except Exception as exc:  # a package on the way does not import
        raise _unavailable(name, module_name, exc) from exc
    if found is None:
        raise _unavailable(name, module_name, ModuleNotFoundError(f"No module named {module_name!r}"))


def _unavailable(name: str, module_name: str, exc: Exception) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"backend {name!r}: the module {module_name!r} does not import ({type(exc).__name__}: {exc}); "
        "install it, or correct the path"
    )


def _llama_cpp() -> Backend:
    # Imported here: an application with a backend of its own need not have what this one needs.
    from localllm.backends.llamacpp import LlamaCppBackend
    from localllm.backends.llamacpp.library import library

    library()  # where it is missing, that is said first: before what else may be missing, such as the model
    return LlamaCppBackend()


def _import(module_name: str, name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except Exception as exc:
        raise _unavailable(name, module_name, exc) from exc


def _made(kind: type[Backend], name: str) -> Backend:
    try:
        return kind()
    except LocalLLMError:
        raise
    except Exception as exc:
        raise BackendUnavailableError(
            f"backend {name!r} cannot be made without arguments ({type(exc).__name__}: {exc}); "
            "pass an instance of it instead"
        ) from exc

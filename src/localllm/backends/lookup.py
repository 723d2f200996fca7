"""Finds the backend that a user names: llama.cpp, or a class by its import path."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from localllm.backends.base import Backend
from localllm.errors import BackendUnavailableError, InvalidOptionError, LocalLLMError

LLAMA_CPP = "llama.cpp"

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
    if not _IMPORT_PATH.fullmatch(name):
        raise InvalidOptionError(
            f"unknown backend {name!r:.80}; use {LLAMA_CPP!r}, an import path such as 'package.module:Class', "
            "or an instance of Backend"
        )
    module_name, _, class_path = name.partition(":")
    found = _import(module_name, name)
    for part in class_path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, Backend):
        is_what = f"is {found!r:.80}, not a subclass of localllm.Backend" if found is not None else "does not exist"
        raise InvalidOptionError(f"backend {name!r}: {class_path!r} in the module {module_name!r} {is_what}")
    kind: type[Backend] = found
    return lambda: _made(kind, name)


def _llama_cpp() -> Backend:
    # Imported here: an application with a backend of its own need not have what this one needs.
    from localllm.backends.llamacpp import LlamaCppBackend
    from localllm.backends.llamacpp.bindings import library

    library()  # where it is missing, that is said first: before what else may be missing, such as the model
    return LlamaCppBackend()


def _import(module_name: str, name: str) -> object:
    try:
        return importlib.import_module(module_name)
    except Exception as exc:
        raise BackendUnavailableError(
            f"backend {name!r}: the module {module_name!r} does not import ({type(exc).__name__}: {exc}); "
            "install it, or correct the path"
        ) from exc


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

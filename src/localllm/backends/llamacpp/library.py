"""llama-cpp-python's low-level module: the only place where it is imported."""

from __future__ import annotations

import os
from types import ModuleType

from localllm.backends.llamacpp.native_log import route_native_logs
from localllm.backends.openmp import spinning_less
from localllm.errors import BackendUnavailableError

_library: ModuleType | None = None


def library() -> ModuleType:
    """Return llama-cpp-python's low-level module, imported and initialized at the first call.

    Raises:
        BackendUnavailableError: It is not installed or does not load; the message has the command.
    """
    global _library
    if _library is None:
        try:
            with spinning_less():
                from llama_cpp import llama_cpp
        except (ImportError, OSError, RuntimeError) as exc:
            raise BackendUnavailableError(
                'the llama.cpp backend needs llama-cpp-python: pip install "localllm[llama]" '
                f"(importing it failed: {exc})"
            ) from exc
        # else an assert of ggml's starts a debugger in the user's process and buries its own message
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")
        route_native_logs(llama_cpp)
        llama_cpp.llama_backend_init()
        _library = llama_cpp
    return _library


def system_info() -> str:
    """Return llama.cpp's line on what it was built with and which instructions of the processor it uses.

    Raises:
        BackendUnavailableError: llama-cpp-python is not installed or does not load.
    """
    text: bytes = library().llama_print_system_info()
    return text.decode("utf-8", "replace")

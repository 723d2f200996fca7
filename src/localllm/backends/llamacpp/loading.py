"""Loading weights: on a thread that ends with it, with progress, and given up when nobody waits any more."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

from localllm.backends.llamacpp.library import library
from localllm.errors import LoadCancelledError, ModelLoadError


def load_weights(path: Path, params: ctypes.Structure, on_progress: Callable[[float], bool] | None) -> ctypes.c_void_p:
    """Load a model.

    A thread that computes keeps OpenMP's threads for its next time. Where there are more of them than cores, libgomp
    has all of them sleep at every barrier: a stream with weights repacked by another thread ran at a sixth of its rate.
    So the thread that lays weights out ends with that.

    Args:
        path: The (first) file.
        params: llama.cpp's `llama_model_params`; its progress callback is set here.
        on_progress: Told the fraction loaded, on that thread; returning False cancels.

    Returns:
        llama.cpp's model, the caller's to free.

    Raises:
        LoadCancelledError: `on_progress` returned False.
        ModelLoadError: llama.cpp refuses the file; its log says why.
    """
    lib, name = library(), os.fsencode(path)
    cancelled = False
    failures: list[BaseException] = []
    models: list[ctypes.c_void_p] = []
    done = threading.Event()

    def progress(fraction: float, _user_data: object) -> bool:
        nonlocal cancelled
        try:
            cancelled = cancelled or (on_progress is not None and not on_progress(fraction))
        except BaseException as exc:  # noqa: BLE001  # it cannot cross native code; raised below
            failures.append(exc)
            cancelled = True
        return not cancelled

    def load() -> None:
        try:
            model: ctypes.c_void_p | None = lib.llama_model_load_from_file(name, params)
            if model:
                models.append(model)
        finally:
            done.set()

    params.progress_callback = callback = lib.llama_progress_callback(progress)
    thread = threading.Thread(target=load, name="localllm-weights")
    thread.start()
    while not done.is_set():  # not `join`: interrupted, Python 3.11 takes a thread that runs for one that has ended
        try:
            done.wait()
        except BaseException as exc:  # noqa: BLE001  # Ctrl-C, perhaps again and again; raised below
            failures.append(exc)
            cancelled = True
    del callback  # native code called it until now
    thread.join()
    if models and not failures and not cancelled:
        return models[0]
    for model in models:
        lib.llama_model_free(model)
    if failures:
        raise failures[0]
    if cancelled:
        raise LoadCancelledError(f"loading {path} was cancelled")
    raise ModelLoadError(f"llama.cpp cannot load {path}; see the log 'localllm.llama' for its reason")

"""How much processor time Python's threads take outside llama.cpp's functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from attrs import define


@define(eq=False)
class _Thread:
    """What one thread has spent in llama.cpp, and whether it is in there now."""

    native_s: float = 0.0
    inside: bool = False
    python_s: float = 0.0


class PythonTime:
    """Tells the calls of llama-cpp-python's bindings from all else, from now on and for the rest of the process.

    To be made before a model is loaded, so that nobody holds the functions as they were. What the timing itself costs
    counts as Python's: some hundred nanoseconds a call.
    """

    def __init__(self) -> None:
        import llama_cpp.llama_cpp as native

        self._threads: dict[threading.Thread, _Thread] = {}
        self._sampled = 0
        kind = type(native.llama_decode)  # ctypes makes a class for each library
        if kind.__name__ != "_FuncPtr":
            raise TypeError("the functions of llama-cpp-python's bindings are not those of ctypes, or are timed twice")
        for name, function in list(vars(native).items()):
            if name.startswith("llama_") and isinstance(function, kind):
                setattr(native, name, self._timed(function))
        native.llama_sampler_sample = self._counted(native.llama_sampler_sample)

    @property
    def sampled(self) -> int:
        """Tokens sampled so far."""
        return self._sampled

    def total_s(self) -> float:
        """Return what all threads that are alive have taken; one within a call counts up to its entry."""
        total_s = 0.0
        for thread in threading.enumerate():
            ident = thread.ident
            if ident is None:
                continue
            state = self._threads.get(thread, _Thread())
            if state.inside:
                total_s += state.python_s
            else:
                total_s += time.clock_gettime(time.pthread_getcpuclockid(ident)) - state.native_s
        return total_s

    def _timed(self, function: Callable[..., object]) -> Callable[..., object]:
        threads, now, this = self._threads, time.thread_time, threading.current_thread

        def call(*arguments: object) -> object:
            thread = this()
            state = threads.get(thread) or threads.setdefault(thread, _Thread())
            entry_s = now()
            state.python_s = entry_s - state.native_s
            state.inside = True
            try:
                return function(*arguments)
            finally:
                state.native_s += now() - entry_s
                state.inside = False

        return call

    def _counted(self, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self._sampled += 1  # one thread samples
            return function(*arguments)

        return call

"""llama.cpp's log, routed to `logging`; without this it writes to the terminal."""

from __future__ import annotations

import logging
from types import ModuleType

_log = logging.getLogger("localllm.llama")
_log.addHandler(logging.NullHandler())  # else `logging` itself would print warnings to the terminal

# ggml_log_level -> logging's; what llama.cpp calls information is detail to an application
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUES = 5  # GGML_LOG_LEVEL_CONT

_callbacks: list[object] = []
"""Every callback ever handed to native code: one that were collected would kill the process at the next message."""


class LineLogger:
    """Puts native messages together into lines and logs each; called from any native thread, with the GIL held."""

    def __init__(self) -> None:
        self._level = logging.DEBUG
        self._text = ""

    def __call__(self, level: int, text: bytes, user_data: object) -> None:
        """Take one message, which may be a part of a line or several lines."""
        if level != _CONTINUES:
            self._level = _LEVELS.get(level, logging.DEBUG)
        *lines, self._text = (self._text + text.decode("utf-8", "replace")).split("\n")
        for line in lines:
            if line.strip(". "):  # llama.cpp shows progress as dots
                _log.log(self._level, "%s", line)


def route_native_logs(lib: ModuleType) -> None:
    """Send the log of `lib`, llama-cpp-python's low-level module, to the logger "localllm.llama"."""
    callback = lib.llama_log_callback(LineLogger())
    _callbacks.append(callback)
    lib.llama_log_set(callback, None)

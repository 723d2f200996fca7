"""Work that a finalizer leaves behind: it may neither wait nor take a lock, not even those of `threading`."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextlib import suppress


def start_soon(action: Callable[[], object]) -> None:
    """Do `action` on a thread of its own; returns at once, also in a finalizer. Nothing is done at the very end."""
    with suppress(RuntimeError):  # the interpreter ends, and with it all that there is to free
        _thread.start_new_thread(_start, (action,))


def _start(action: Callable[[], object]) -> None:
    # A raw thread may be started anywhere; it makes a proper one, which `threading` knows while it runs.
    with suppress(RuntimeError):
        threading.Thread(target=action, name="localllm-close", daemon=True).start()

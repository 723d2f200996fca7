"""Starts the worker; localllm itself does so, with two pipes as stdin and stdout."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Take the pipes away from stdin and stdout, then serve the parent."""
    if os.isatty(0):
        sys.exit("this is started by localllm itself, and speaks to it over a pipe: it is nothing for a terminal")
    in_fd, out_fd = os.dup(0), os.dup(1)  # not inherited by what the backend may start
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)  # whatever prints, native code too, must not print between two frames
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    # else an assert of ggml's starts a debugger, which buries the assert's own message
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    from localllm.backends.worker.child import run  # imported only now, for an import may print

    run(in_fd, out_fd)


if __name__ == "__main__":
    main()

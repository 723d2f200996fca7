"""The command line: `localllm chat`, `pull`, `list`, `inspect`, `verify`, `remove` and `doctor`.

`app` declares the commands and their options; each command has a module of its own. typer and rich come with the extra
`cli` and are imported only when a command runs, so that their absence can be explained.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; None is this process's own.

    Returns:
        The exit code: 0 done, 1 failed, 2 used wrongly, 130 ended by Ctrl-C, 141 the reader of the output left.
    """
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"localllm: the command line needs {' and '.join(missing)}, not installed here; "
            'run: pip install "localllm[cli]"',
            file=sys.stderr,
        )
        return USAGE
    from localllm.cli.app import run

    return run(sys.argv[1:] if arguments is None else arguments)

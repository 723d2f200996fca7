"""Progress bars for what takes long: one for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from localllm.cli.figures import size
from localllm.cli.terminal import Terminal, printable
from localllm.models.progress import PullCallback, PullProgress


@contextmanager
def bars(terminal: Terminal) -> Iterator[Callable[[str], PullCallback]]:
    """Yield what makes a progress bar for each reference; bars that show nothing where nobody looks."""
    if not terminal.stderr.isatty():
        yield lambda ref: lambda progress: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[pace]}", style="dim"),
    )
    lock = Lock()
    with Progress(*columns, console=Console(file=terminal.stderr), transient=True) as progress:

        def bar(ref: str) -> PullCallback:
            task = progress.add_task(escape(printable(ref)), total=None, amount="", pace="")

            def show(event: PullProgress) -> None:
                with lock:
                    progress.update(
                        task,
                        completed=event.done_bytes,
                        total=event.total_bytes,
                        amount=amount(event),
                        pace=escape(printable(pace(event))),
                    )

            return show

        yield bar


def amount(progress: PullProgress) -> str:
    """Return how much is there, such as "12.0 MiB of 3.1 GiB"; empty before anything is known."""
    if progress.total_bytes is None and not progress.done_bytes:
        return ""
    done = size(progress.done_bytes)
    return done if progress.total_bytes is None else f"{done} of {size(progress.total_bytes)}"


def pace(progress: PullProgress) -> str:
    """Return what is being done, and how fast: "38.2 MiB/s, 1:23 left", or the phase."""
    if progress.phase != "downloading" or progress.rate_bytes_per_s is None:
        return f"{progress.phase}: {progress.detail}" if progress.detail else progress.phase
    rate = f"{size(round(progress.rate_bytes_per_s))}/s"
    if progress.time_left_s is None:
        return rate
    minutes, seconds = divmod(round(progress.time_left_s), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{rate}, {left} left"

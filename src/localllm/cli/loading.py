"""Getting a model ready, with a progress bar for a person who waits and Ctrl-C to give up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from attrs import frozen

from localllm.backends.base import LoadProgress
from localllm.cli.terminal import Terminal, on_interrupt
from localllm.errors import LoadCancelledError
from localllm.manager import ModelManager
from localllm.model import Model
from localllm.options import GenerationOptions, ModelConfig


@frozen(kw_only=True)
class ChatSettings:
    """What the options of `localllm chat` say.

    Args:
        model: The model's reference.
        system: The system message, if any.
        backend: Name or import path of a backend; None is the default one.
        config: How to load the model.
        options: How to generate.
    """

    model: str
    system: str | None = None
    backend: str | None = None
    config: ModelConfig = ModelConfig()
    options: GenerationOptions


@contextmanager
def loaded(settings: ChatSettings, terminal: Terminal) -> Iterator[Model]:
    """Load the model that `settings` name, and close it at the end.

    Args:
        settings: Which model, and how.
        terminal: Whose stderr shows the progress, if it is a terminal.

    Yields:
        The model.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed while it was loading.
        LocalLLMError: It cannot be loaded.
    """
    with ModelManager(backend=settings.backend) as models:
        with on_interrupt() as interrupt, _progress(terminal) as advance:

            def report(progress: LoadProgress) -> bool:
                advance(progress)
                return not interrupt

            try:
                model = models.load(settings.model, config=settings.config, on_progress=report, fetch=False)
            except LoadCancelledError as exc:
                raise KeyboardInterrupt from exc
        if interrupt:  # too late to stop the loading, not too late to obey
            raise KeyboardInterrupt
        yield model


@contextmanager
def _progress(terminal: Terminal) -> Iterator[Callable[[LoadProgress], None]]:
    """Yield what shows how far the load is: a bar that vanishes afterwards, or nothing where nobody looks."""
    if not terminal.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=terminal.stderr), transient=True) as bars:
        task = bars.add_task("loading", total=1.0)
        yield lambda progress: bars.update(task, description=progress.phase, completed=progress.fraction)

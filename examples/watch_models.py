"""What a user interface binds to: every state of every model, as it happens.

A model is loaded, used, and left alone until it is unloaded; used again, it comes back by itself, and its chat goes on.
"""

import sys
import threading

from localllm import (
    ChatSession,
    Downloading,
    Failed,
    Loading,
    ManagerEvent,
    ManagerSnapshot,
    ModelConfig,
    ModelManager,
    Unloaded,
)

unloaded = threading.Event()


def say(line: str) -> None:
    """Print a line in one piece: two threads do."""
    print(f"{line}\n", end="", flush=True)


def show(event: ManagerEvent) -> None:
    """Draw what has changed. Called on a thread of its own, one event at a time."""
    match event:
        case ManagerSnapshot():
            say(f"* at first: {len(event.models)} models, {len(event.downloads)} downloads")
        case Downloading():
            say(f"* {event.ref}: {event.progress.phase}, {event.progress.done_bytes / 1e6:.1f} MB")
        case Loading():
            if event.progress.fraction in (0.0, 1.0):  # of the steps in between there are some hundreds
                say(f"* {event.ref}: {event.progress.phase}, {event.progress.fraction:.0%}")
        case Failed():
            say(f"* {event.ref}: failed: {event.error}")
        case _:
            say(f"* {event.ref}: {type(event).__name__.lower()}")
    if isinstance(event, Unloaded):
        unloaded.set()


def main(ref: str) -> None:
    """Use the model `ref` twice, with a pause in between that is longer than it is kept."""
    with ModelManager(keep_alive_s=0.5) as models, models.subscribe(show):
        model = models.load(ref, config=ModelConfig(n_ctx=512))
        chat = ChatSession(model, temperature=0.0, max_tokens=12)
        say(f"< {chat.send('Name a color.').text!r}")
        unloaded.wait()
        say(f"  ({model.stats().finished} reply so far, and no memory taken)")
        say(f"< {chat.send('And another one?').text!r}")
        for state in models.snapshot().models:
            say(f"  {state.ref}: {state.state}, {state.memory_bytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m")

"""A conversation that outlives its process: saved with what the model has read, and gone on with in a second.

    python examples/save_and_restore.py [FILE]

The first run begins a conversation and saves it; a further one goes on from the file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from localllm import ChatSession, ModelManager

MANUAL = "The red lever opens the gate. The blue lever closes it. The green one calls the ferry. " * 20


def begin(path: Path) -> None:
    """Read a long manual, ask about it, and save the session."""
    with ModelManager() as models:
        chat = ChatSession(models.load("smollm2-135m"), system=MANUAL, temperature=0)
        reply = chat.send("Which lever opens the gate?", max_tokens=24)
        print(f"{reply.text.strip()}\n  first token after {reply.timings.first_token_s:.2f} s")
        saved = chat.save(path)
        print(f"  saved {saved.tokens} tokens of state, {path.stat().st_size / 1e6:.1f} MB")


def go_on(path: Path) -> None:
    """Restore the session in a new worker process: the manual is not read again."""
    with ModelManager() as models:
        chat = ChatSession.restore(path, models.load("smollm2-135m"))
        reply = chat.send("And which one closes it?", max_tokens=24)
        cached, prompt = reply.usage.cached_tokens, reply.usage.prompt_tokens
        print(f"{reply.text.strip()}\n  first token after {reply.timings.first_token_s:.2f} s, ", end="")
        print(f"{cached} of {prompt} tokens from the file")


def main() -> None:
    """Begin, or go on from the file that is given; without one, do both."""
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        (go_on if path.exists() else begin)(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chat.session"
        begin(path)
        go_on(path)


if __name__ == "__main__":
    main()

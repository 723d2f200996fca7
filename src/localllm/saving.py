"""Saving a conversation to a file, and going on from one: what both kinds of session share."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from localllm.chat.overflow import OVERFLOWS, Overflow
from localllm.conversation import Conversation
from localllm.errors import InvalidOptionError
from localllm.options import GenerationOptions
from localllm.saved.session import SavedSession, read_session, write_session
from localllm.saved.state import StateUse

_log = logging.getLogger("localllm.session")


def save(conversation: Conversation, path: str | os.PathLike[str], *, state: bool) -> StateUse:
    """Write a conversation into a file; see `ChatSession.save`."""
    saved, request = conversation.snapshot()
    use = StateUse(why="the state was not asked for" if request else "there is nothing to save a state of")

    def append_state(file: Path, offset: int) -> None:
        nonlocal use
        if state and request is not None:
            use = conversation.model.save_state(request, file, offset)

    write_session(_path(path), saved, append_state)
    return use


def read(path: str | os.PathLike[str]) -> SavedSession:
    """Read a saved session; see `ChatSession.restore`."""
    return read_session(_path(path))


def go_on(conversation: Conversation, saved: SavedSession, path: str | os.PathLike[str]) -> StateUse:
    """Have a conversation go on where a saved one stopped, with its state if the model can use it."""
    conversation.adopt(saved.history)
    use = conversation.model.load_state(_path(path))
    if use.why:
        _log.info("%s: of the state, %s tokens are used: %s", path, use.tokens, use.why)
    return use


def overflow_of(saved: SavedSession, overflow: Overflow | None) -> Overflow:
    """Return the policy that a restored session has: the caller's, or the one that it had.

    Raises:
        InvalidOptionError: It had a function, which no file holds.
    """
    if overflow is not None:
        return overflow
    for name in OVERFLOWS:
        if name == saved.overflow:
            return name
    raise InvalidOptionError(
        "the session was saved with a function for overflow, and no file can hold one; give it again with overflow=..."
    )


def check_tools(saved: SavedSession, tools: object) -> None:
    """Raise InvalidOptionError if a session that had tools is to go on and nothing is said of them."""
    if tools is None and saved.tools:
        raise InvalidOptionError(
            f"the session was saved with the tools {', '.join(saved.tools)}, and no file can hold functions; give them "
            "again with tools=[...], or go on without with tools=()"
        )


def merged(saved: SavedSession, options: Mapping[str, object]) -> GenerationOptions:
    """Return the options of a restored session: the caller's over those that it had."""
    return cast("GenerationOptions", {**saved.options, **options})  # checked when the session is made


def _path(path: str | os.PathLike[str]) -> Path:
    given: object = path  # what users pass may be anything
    if not isinstance(given, (str, os.PathLike)) or not isinstance(os.fspath(given), str):
        raise InvalidOptionError(f"path must be a str or a path; got {given!r:.80}")
    return Path(path)

"""A session in a file: the conversation as JSON, in the section `CHAT`, and perhaps the model's state after it.

Versions, of which all are read and the last is written:

1. `messages` (as `Message.to_dict`), `options`, and of the model its `hash` and `name`.
2. Also `turns`, pairs of the index of a turn's first message and of the first after its prompt; `window`, what the
   model reads in place of the oldest messages (`head`) and the index of the first message that it reads as it is
   (`since`), or null if it reads them all; `overflow`, the policy's name; and `tools`, the names of the tools.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

from attrs import evolve, field, frozen

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm._version import __version__
from localllm.chat.history import History, Window
from localllm.errors import (
    DamagedSessionError,
    InvalidOptionError,
    InvalidPromptError,
    LocalLLMError,
    SessionFileError,
)
from localllm.options import RequestOptions
from localllm.saved.sections import END, MAGIC, payload_of, replaced, sections_of, write_section
from localllm.types import Message

VERSION = 2
CHAT = b"CHAT"


@frozen(kw_only=True)
class SavedSession:
    """What a session is made of, apart from the model and the tools themselves.

    Args:
        history: The conversation.
        options: The session's options, by name.
        overflow: The name of what is done when the context window is full; "callable" for a function.
        tools: Names of the session's tools.
        model_hash: The model that it was saved with.
        model_name: Its name.
    """

    history: History
    options: Mapping[str, object] = field(factory=dict)
    overflow: str = "error"
    tools: tuple[str, ...] = ()
    model_hash: str = ""
    model_name: str = ""


def write_session(path: Path, saved: SavedSession, append_state: Callable[[Path, int], object]) -> None:
    """Write a session, whole or not at all.

    Args:
        path: The file; replaced if there is one.
        saved: The session.
        append_state: Given a file and its length so far, appends the sections of a state to it. What it raises is
            raised here, and no file is written.

    Raises:
        SessionFileError: The file cannot be written.
    """
    try:
        with replaced(path) as file:
            file.write(MAGIC)
            write_section(file, CHAT, json.dumps(_to_json(saved), ensure_ascii=False).encode())
            file.flush()
            append_state(Path(file.name), file.tell())
            file.seek(0, 2)
            write_section(file, END)
    except LocalLLMError:
        raise
    except OSError as exc:
        raise SessionFileError(f"the session cannot be saved to {path}: {exc}") from exc


def read_session(path: Path) -> SavedSession:
    """Read a session; every byte of the file is verified.

    Raises:
        SessionFileError: The file cannot be read.
        DamagedSessionError: It is damaged, or no saved session, or of a later version.
    """
    try:
        chat = [section for section in sections_of(path) if section.kind == CHAT]
        payload = payload_of(path, chat[0]) if chat else b""
    except LocalLLMError:
        raise
    except OSError as exc:
        raise SessionFileError(f"the session cannot be read from {path}: {exc}") from exc
    if not chat:
        raise DamagedSessionError(f"{path} holds no conversation")
    try:
        return _from_json(json.loads(payload))
    except (InvalidPromptError, InvalidOptionError, ValueError, RecursionError) as exc:
        raise DamagedSessionError(f"{path} is no session that can be used: {exc}") from exc


def _to_json(saved: SavedSession) -> dict[str, JsonValue]:
    history = saved.history
    window = history.window
    return {
        "version": VERSION,
        "localllm": __version__,
        "model": {"hash": saved.model_hash, "name": saved.model_name},
        "messages": _from_messages(history.messages),
        "turns": [list(turn) for turn in zip(history.starts, history.answers, strict=True)],
        "window": None if window is None else {"head": _from_messages(window.head), "since": window.since},
        "options": cast("dict[str, JsonValue]", dict(saved.options)),  # numbers, texts, and tuples of them
        "overflow": saved.overflow,
        "tools": list(saved.tools),
    }


def _from_json(data: JsonValue) -> SavedSession:
    about = as_object(data, "a saved session")
    version = about.get("version")
    if version not in (1, 2):
        raise InvalidPromptError(f"its version is {version!r:.40}, and this localllm reads versions 1 to {VERSION}")
    second = () if version == 1 else ("turns", "window", "overflow", "tools")
    required = ("version", "model", "messages", "options", *second)
    check_keys(about, "saved session", required=required, optional=("localllm",))
    model = as_object(about["model"], "model")
    history = History.of(None, _to_messages(about["messages"]))
    return SavedSession(
        history=history if version == 1 else _with_turns(history, about["turns"], about["window"]),
        options=_options(as_object(about["options"], "options")),
        overflow=check_text(about.get("overflow", "error"), "overflow"),
        tools=tuple(check_text(name, "a tool's name") for name in as_list(about.get("tools", ()), "tools")),
        model_hash=check_text(model.get("hash", ""), "a model's hash"),
        model_name=check_text(model.get("name", ""), "a model's name"),
    )


def _from_messages(messages: Iterable[Message]) -> list[JsonValue]:
    return [message.to_dict() for message in messages]


def _to_messages(data: JsonValue) -> list[Message]:
    return [Message.from_dict(as_object(message, "a message")) for message in as_list(data, "messages")]


def _with_turns(history: History, turns: JsonValue, window: JsonValue) -> History:
    """Return the history with the turns and the window as they were, if they can be its own."""
    end = len(history.messages)
    marks: list[int] = []
    for turn in as_list(turns, "turns"):
        pair = as_list(turn, "a turn")
        if len(pair) != 2:
            raise InvalidPromptError(f"a turn is a pair of indices, not {pair!r:.80}")
        marks += [_count(mark, end) for mark in pair]
    if marks != sorted(marks) or any(start >= answer for start, answer in zip(marks[::2], marks[1::2], strict=True)):
        raise InvalidPromptError(f"the turns overlap: {marks!r:.80}")
    read = None
    if window is not None:
        about = as_object(window, "window")
        check_keys(about, "window", required=("head", "since"), optional=())
        read = Window(tuple(_to_messages(about["head"])), _count(about["since"], end))
    return evolve(history, starts=tuple(marks[::2]), answers=tuple(marks[1::2]), window=read)


def _count(value: JsonValue, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidPromptError(f"{value!r:.40} is not from 0 to {most}")
    return value


def _options(data: Mapping[str, JsonValue]) -> dict[str, object]:
    """Return the options as they were, each checked: JSON knows lists in place of tuples."""
    given = {name: _tuples(value) for name, value in data.items()}
    checked = RequestOptions.of(given)
    return {name: getattr(checked, name) for name in given}


def _tuples(value: JsonValue) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value

"""A session in a file: the conversation as JSON, in the section `CHAT`, and perhaps the model's state after it.

Versions, of which all are read and the last is written:

1. `messages` (as `Message.to_dict`), `options`, and of the model its `hash` and `name`.
2. Also `turns`, where each turn begins; `overflow`, the policy's name; `left_out`, the messages that the policy leaves
   out of prompts by now; and `tools`, the names of the tools that the session had.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from attrs import field, frozen

from localllm._json import JsonValue, as_list, as_object, check_keys, check_text
from localllm._version import __version__
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
        messages: The history.
        turns: The index of each turn's first message; None if the file does not say it.
        options: The session's options, by name.
        overflow: The name of what is done when the context window is full; "callable" for a function.
        left_out: Messages after the system message that are left out of prompts by now.
        tools: Names of the session's tools.
        model_hash: The model that it was saved with.
        model_name: Its name.
    """

    messages: tuple[Message, ...]
    turns: tuple[int, ...] | None = None
    options: Mapping[str, object] = field(factory=dict)
    overflow: str = "error"
    left_out: int = 0
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
    return {
        "version": VERSION,
        "localllm": __version__,
        "model": {"hash": saved.model_hash, "name": saved.model_name},
        "messages": [message.to_dict() for message in saved.messages],
        "options": cast("dict[str, JsonValue]", dict(saved.options)),  # numbers, texts, and tuples of them
        "turns": None if saved.turns is None else list(saved.turns),
        "overflow": saved.overflow,
        "left_out": saved.left_out,
        "tools": list(saved.tools),
    }


def _from_json(data: JsonValue) -> SavedSession:
    about = as_object(data, "a saved session")
    version = about.get("version")
    if version not in (1, 2):
        raise InvalidPromptError(f"its version is {version!r:.40}, and this localllm reads versions 1 to {VERSION}")
    second = () if version == 1 else ("turns", "overflow", "left_out", "tools")
    check_keys(
        about, "saved session", required=("version", "model", "messages", "options", *second), optional=("localllm",)
    )
    model = as_object(about["model"], "model")
    messages = as_list(about["messages"], "messages")
    turns, left_out = about.get("turns"), about.get("left_out", 0)
    return SavedSession(
        messages=tuple(Message.from_dict(as_object(message, "a message")) for message in messages),
        turns=None if turns is None else tuple(_count(turn, len(messages)) for turn in as_list(turns, "turns")),
        options=_options(as_object(about["options"], "options")),
        overflow=check_text(about.get("overflow", "error"), "overflow"),
        left_out=_count(left_out, len(messages)),
        tools=tuple(check_text(name, "a tool's name") for name in as_list(about.get("tools", ()), "tools")),
        model_hash=check_text(model.get("hash", ""), "a model's hash"),
        model_name=check_text(model.get("name", ""), "a model's name"),
    )


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

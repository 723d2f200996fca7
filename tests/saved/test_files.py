"""A session's file gives back what was written, whole, or says clearly that it cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm import DamagedSessionError, Message, SessionFileError, TokenIds, ToolCall
from localllm.chat.history import History, Window
from localllm.saved.sections import END, MAGIC, sections_of, write_section
from localllm.saved.session import CHAT, SavedSession, read_session, write_session
from localllm.saved.state import StateBlock, StateHead, append_state, read_state

HEAD = StateHead("toy 1", "abc", (5, 6, 7, 8, 9))
BLOCKS = (StateBlock(0, 4, b"\x00\x01\x02\x03"), StateBlock(4, 5, bytes(300)))
CHAT_MESSAGES = (
    Message.system("Be brief."),
    Message.user("Grüß dich! \U0001f600"),
    Message("assistant", "", tool_calls=(ToolCall("add", {"a": 1}, "call_0"),), thought="Hm."),
    Message("tool", "3", tool_call_id="call_0"),
    Message("assistant", "Three.", finish_reason="stop", token_ids=TokenIds("abc", (1, 2, 3))),
)
SAVED = SavedSession(
    history=History(CHAT_MESSAGES, (1,), (2,), Window((Message.system("Be brief. Earlier: nothing."),), 1)),
    options={"temperature": 0.5, "logit_bias": ((3, -1.5),), "stop": ("a", "b"), "seed": None},
    overflow="drop_oldest",
    tools=("add",),
    model_hash="abc",
    model_name="toy",
)


def no_state(path: Path, offset: int) -> None:
    """Append nothing."""


def some_state(path: Path, offset: int) -> None:
    """Append a state of two blocks."""
    assert append_state(path, offset, HEAD, BLOCKS) == 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A saved session with a state."""
    path = tmp_path / "chat.session"
    write_session(path, SAVED, some_state)
    return path


def test_a_session_comes_back_as_it_was(file: Path) -> None:
    """Messages with their calls, thoughts and tokens, options and turns, and the state block by block."""
    found = read_session(file)
    assert found == SAVED
    assert [message.to_dict() for message in found.history.messages] == [message.to_dict() for message in CHAT_MESSAGES]
    state = read_state(file)
    assert state is not None
    assert (state[0], tuple(state[1])) == (HEAD, BLOCKS)


def test_a_session_without_a_state_says_so(tmp_path: Path) -> None:
    """There is none to read."""
    path = tmp_path / "chat.session"
    write_session(path, SAVED, no_state)
    assert read_session(path) == SAVED
    assert read_state(path) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damaged_byte_goes_unnoticed(file: Path, data: st.DataObject) -> None:
    """Whichever byte is another, and however the file is cut off or goes on: a clear error."""
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["change", "cut", "insert", "append"]))
    byte = bytes([data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))])
    damaged = {
        "change": whole[:at] + byte + whole[at + 1 :],
        "cut": whole[:at],
        "insert": whole[:at] + byte + whole[at:],
        "append": whole + byte,
    }[damage]
    path = file.with_name("damaged.session")
    path.write_bytes(damaged)
    for read in (read_session, read_state):
        with pytest.raises(DamagedSessionError, match=r"damaged\.session"):
            read(path)


@given(st.binary(max_size=200), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else_is_refused(tmp_path: Path, content: bytes, begins: bool) -> None:
    """Random bytes, also behind the right beginning."""
    path = tmp_path / "some"
    path.write_bytes(MAGIC * begins + content)
    with pytest.raises(DamagedSessionError):
        sections_of(path)


def test_a_failure_while_saving_leaves_the_file_as_it_was(file: Path) -> None:
    """And nothing beside it."""
    before = file.read_bytes()

    def fail(path: Path, offset: int) -> None:
        assert path.exists()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        write_session(file, SAVED, fail)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_files_that_cannot_be_written_or_read_are_named(tmp_path: Path) -> None:
    """No such folder, no such file, a folder in its place."""
    with pytest.raises(SessionFileError, match="nowhere"):
        write_session(tmp_path / "nowhere" / "chat", SAVED, no_state)
    with pytest.raises(SessionFileError, match="absent"):
        read_session(tmp_path / "absent")
    with pytest.raises(SessionFileError):
        read_session(tmp_path)
    with pytest.raises(SessionFileError):
        write_session(tmp_path, SAVED, no_state)


def write_json(path: Path, text: bytes) -> Path:
    """Write a file whose conversation is `text`."""
    with path.open("wb") as out:
        out.write(MAGIC)
        write_section(out, CHAT, text)
        write_section(out, END)
    return path


def test_version_1_is_read(tmp_path: Path) -> None:
    """It knows neither turns nor policies."""
    first = {
        "version": 1,
        "model": {"hash": "abc", "name": "toy"},
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "options": {"temperature": 0.0},
    }
    found = read_session(write_json(tmp_path / "first", json.dumps(first).encode()))
    assert found.history == History((Message.user("Hi"), Message("assistant", "Hello")), (0,), (1,))
    assert (found.options, found.overflow, found.tools) == ({"temperature": 0.0}, "error", ())


VALID = {"version": 2, "model": {}, "messages": [], "options": {}, "turns": [], "window": None, "overflow": "error"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 3}, "version is 3"),
        ({"version": None}, "version is None"),
        ({"messages": {}}, "messages must be a list"),
        ({"messages": [{"role": "king", "content": ""}]}, "unknown role"),
        ({"messages": [{"role": "user", "content": 5}]}, "must be a str"),
        ({"options": {"temprature": 1}}, "temprature"),
        ({"options": {"temperature": "hot"}}, "temperature"),
        ({"turns": [[0, 7]]}, "not from 0 to 0"),
        ({"turns": [[0]]}, "pair of indices"),
        ({"turns": [[0, 0]]}, "overlap"),
        ({"window": {"head": []}}, "missing"),
        ({"window": {"head": [], "since": True}}, "not from 0 to 0"),
        ({"model": 5}, "model must be a JSON object"),
        ({"more": 5}, "unknown"),
    ],
)
def test_a_conversation_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    """With what is wrong with it, whatever its checksum says."""
    text = json.dumps({**VALID, "tools": [], **change}).encode()
    with pytest.raises(DamagedSessionError, match=said):
        read_session(write_json(tmp_path / "odd", text))


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b"nul"])
def test_what_is_no_conversation_is_refused(tmp_path: Path, text: bytes) -> None:
    """No JSON, other JSON, JSON of any depth."""
    with pytest.raises(DamagedSessionError, match="odd"):
        read_session(write_json(tmp_path / "odd", text))


@pytest.mark.parametrize("text", [b"", b"[]", b'{"format": 1}', b'{"format": "", "model_hash": "", "tokens": [true]}'])
def test_what_is_no_state_is_refused(tmp_path: Path, text: bytes) -> None:
    """No JSON, or something missing or of the wrong type."""
    path = tmp_path / "odd"
    with path.open("wb") as out:
        out.write(MAGIC)
        write_section(out, b"STAT", text)
        write_section(out, END)
    with pytest.raises(DamagedSessionError, match="odd"):
        read_state(path)

"""What a recording does to its file and to the backend that it records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from localllm import (
    BackendError,
    CassetteError,
    ChatSession,
    ClosedError,
    FakeBackend,
    GenerateRequest,
    InvalidOptionError,
    Message,
    ModelManager,
    ModelSpec,
    RecordingBackend,
    ReplayBackend,
)
from localllm.backends.cassettes.files import read_tapes
from localllm.backends.cassettes.recorder import failure_of, folders_of
from localllm.testing import collect
from tests.backends.cassettes import record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cassette that is not there yet, in a folder that is not there either."""
    return tmp_path / "cassettes" / "talk.json"


def test_what_was_recorded_is_kept_and_the_rest_is_asked(path: Path) -> None:
    """With `keep`: known requests do not reach the model, new ones do and are added."""
    with ModelManager(record(path, "old")) as models:
        ChatSession(models.load("any")).send("Hi")
    inner = FakeBackend(["new"])
    backend = RecordingBackend(inner, path, keep=True)
    with ModelManager(backend) as models:
        model = models.load("any")
        assert [ChatSession(model).send(text).text for text in ("Hi", "Ho")] == ["old", "new"]
    assert [request.messages[-1].content for request in inner.requests] == ["Ho"]
    assert [request.messages[-1].content for request in backend.requests] == ["Hi", "Ho"]
    with ModelManager(ReplayBackend(path)) as models:
        model = models.load("any")
        assert [ChatSession(model).send(text).text for text in ("Ho", "Hi")] == ["new", "old"]


def test_recording_again_replaces_the_file(path: Path) -> None:
    """Nothing of the old recording stays in it."""
    for text in ("Hi", "Ho"):
        with ModelManager(record(path, "same")) as models:
            ChatSession(models.load("any")).send(text)
    (tape,) = read_tapes(path)
    assert [one.asked["messages"] for one in tape.recorded] == [[{"role": "user", "content": "Ho"}]]


def test_a_killed_process_leaves_what_had_ended(path: Path) -> None:
    """The file is whole, without anything having been closed."""
    code = (
        "import os, sys\n"
        "from localllm import ChatSession, FakeBackend, ModelManager, RecordingBackend\n"
        "model = ModelManager(RecordingBackend(FakeBackend(['one', 'two']), sys.argv[1])).load('any')\n"
        "ChatSession(model).send('Hi')\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, path], timeout=15, check=False).returncode == 9
    with ModelManager(ReplayBackend(path)) as models:
        assert ChatSession(models.load("any")).send("Hi").text == "one"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_recording_that_can_no_longer_be_saved_says_so_at_its_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reply itself is not spoiled."""
    model = record(path, "one").load(ModelSpec(ref="any"))
    path.unlink()
    path.mkdir()
    assert collect(model, GenerateRequest(messages=(Message.user("Hi"),))).text == "one"
    with pytest.raises(CassetteError, match="cannot write the cassette"):
        model.close()
    assert "a recording could not be saved" in caplog.text
    with ReplayBackend(path) as replay, pytest.raises(CassetteError, match="cannot read the cassette"):
        replay.load(ModelSpec(ref="any"))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_whose_backend_it_is_closes_it(path: Path) -> None:
    """An instance stays open for the next recording; a closed recording takes no model any more."""
    inner = FakeBackend(["one", "two"])
    for text in ("one", "two"):
        with RecordingBackend(inner, path) as backend, ModelManager(backend) as models:
            assert ChatSession(models.load("any")).send("Hi").text == text
        with ModelManager(backend) as models, pytest.raises(ClosedError):
            models.load("any")
    with ReplayBackend(path) as replay, ModelManager(replay) as models:
        models.load("any")
    with ModelManager(replay) as models, pytest.raises(ClosedError):
        models.load("any")


def test_a_backend_that_is_none_is_refused(path: Path) -> None:
    """With what it may be."""
    with pytest.raises(InvalidOptionError, match="inner must be a Backend, the name of one, or None"):
        RecordingBackend(3, path)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """When the model is loaded, before anything is asked of it."""
    (tmp_path / "file").write_text("")
    backend = record(tmp_path / "file" / "talk.json", "yes")
    with ModelManager(backend) as models, pytest.raises(CassetteError, match="cannot write the cassette"):
        models.load("any")


def test_a_backend_by_name_is_recorded_from_its_worker(path: Path) -> None:
    """Which ends with the recording."""
    with RecordingBackend("tests.worker.scripted:SlowFake", path) as backend, ModelManager(backend) as models:
        recorded = ChatSession(models.load("any")).send("Hi", max_tokens=4).text
    with ModelManager(ReplayBackend(path)) as models:
        assert ChatSession(models.load("any")).send("Hi", max_tokens=4).text == recorded


def test_errors_are_recorded_without_folders_of_this_machine() -> None:
    """The model's own and the user's; not those that are in any text."""
    file = Path.home() / "secret" / "tiny.gguf"
    folders = folders_of(ModelSpec(ref="tiny", path=file))
    assert failure_of(BackendError(f"cannot read {file}: no such file."), folders).message == (
        f"cannot read ...{os.sep}tiny.gguf: no such file."
    )
    assert "." not in folders_of(ModelSpec(ref="tiny", path=Path("tiny.gguf")))

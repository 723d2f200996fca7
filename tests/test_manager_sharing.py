"""One model, many handles: what is loaded once, who is told, whom a cancel concerns, and when it is freed."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm import (
    ChatSession,
    ClosedError,
    FakeBackend,
    GenerateRequest,
    LoadCancelledError,
    LoadProgress,
    Message,
    Model,
    ModelConfig,
    ModelLoadError,
    ModelManager,
)
from tests.chats import in_thread
from tests.residency.gates import Gate, Loads, Log, no_thread_left, until

REQUEST = GenerateRequest(messages=(Message.user("hi"),))


class FileLoads(Loads):
    """The same, of files."""

    uses_files = True


def loading(models: ModelManager, ref: str, into: list[Model], **options: object) -> Callable[[], BaseException | None]:
    """Load on a thread; the returned function waits and tells what was raised."""
    return in_thread(lambda: into.append(models.load(ref, **options)))  # type: ignore[arg-type]


def test_the_same_load_is_shared_and_freed_with_the_last_handle() -> None:
    """Another name or another config is another model."""
    backend = Loads()
    with ModelManager(backend) as models:
        first, second = models.load("a"), models.load("a")
        other, wide = models.load("b"), models.load("a", config=ModelConfig(n_ctx=64))
        assert first is not second
        assert len(backend.made) == 3
        first.close()
        first.close()
        assert backend.made[0].closed == 0
        with pytest.raises(ClosedError, match="load it again"):
            first.tokenize("x")
        assert second.tokenize("x") == (120,)
        second.close()
        assert [made.closed for made in backend.made] == [1, 0, 0]
        again = models.load("a")
        assert len(backend.made) == 4
        for model in (other, wide, again):
            model.close()
    assert [made.closed for made in backend.made] == [1, 1, 1, 1]


def test_closing_a_handle_ends_its_own_replies_and_no_others() -> None:
    """Though all of them run on one model."""
    backend = Loads()
    with ModelManager(backend) as models:
        mine, theirs = models.load("a"), models.load("a")
        logs = [Log(), Log()]
        mine.submit(REQUEST, logs[0])
        theirs.submit(REQUEST, logs[1])
        mine.close()
        assert logs[0].end().finish_reason == "cancelled"
        assert logs[1].events == []
        theirs.close()
        assert logs[1].end().finish_reason == "cancelled"


def test_a_handle_that_is_dropped_is_closed() -> None:
    """Soon after, on a thread that does not stay; a session, and a stream under way, keep theirs."""
    backend = Loads()
    with no_thread_left(), ModelManager(backend) as models:
        model = models.load("a")
        chat = ChatSession(model)
        del model
        gc.collect()
        assert backend.made[0].closed == 0
        stream = chat.stream("hi")
        del chat
        gc.collect()
        assert backend.made[0].closed == 0
        stream.cancel()
        del stream
        gc.collect()
        until(lambda: backend.made[0].closed, "the model is closed")
        until(lambda: models.snapshot().models == (), "nothing is left")


def test_loads_of_the_same_at_once_are_one_load() -> None:
    """Each caller is told all of its progress, on its own thread."""
    gate = Gate()
    backend = Loads(gate)
    told: list[tuple[int, float]] = []

    def tell(progress: LoadProgress) -> None:
        told.append((threading.get_ident(), progress.fraction))

    with ModelManager(backend) as models:
        loaded: list[Model] = []
        waits = [loading(models, "a", loaded, on_progress=tell) for _ in range(2)]
        gate.wait()
        both_wait(models)
        gate.open()
        assert [wait() for wait in waits] == [None, None]
        assert (len(backend.made), len(loaded)) == (1, 2)
        assert {fraction for _, fraction in told} >= {1.0}
        assert len({thread for thread, _ in told}) == 2
        assert threading.get_ident() not in {thread for thread, _ in told}


def test_a_model_that_is_there_tells_one_progress() -> None:
    """The end, so that a bar fills; who refuses it gets no handle."""
    backend = Loads()
    with ModelManager(backend) as models:
        model = models.load("a")
        told: list[LoadProgress] = []
        models.load("a", on_progress=told.append)
        assert told == [LoadProgress("loading", 1.0)]
        with pytest.raises(LoadCancelledError, match="loading 'a' was cancelled by on_progress"):
            models.load("a", on_progress=lambda progress: False)
        model.submit(REQUEST, Log())
        assert len(backend.made) == 1


def both_wait(models: ModelManager) -> None:
    """Return once two handles share the one model."""
    until(lambda: [len(leases) for leases in models._residents._leases.values()] == [2], "both wait")


def test_the_one_that_began_a_load_may_leave_it_to_the_other() -> None:
    """Its cancel ends its own wait, and nothing else."""
    gate, joined = Gate(), threading.Event()
    backend = Loads(gate)

    def refuse_late(progress: LoadProgress) -> bool:
        assert joined.wait(15)  # refused before the other is there, the load would be nobody's
        return False

    with ModelManager(backend) as models:
        loaded: list[Model] = []
        first = loading(models, "a", loaded, on_progress=refuse_late)
        until(lambda: models.snapshot().models, "the load has begun")
        second = loading(models, "a", loaded)
        both_wait(models)
        gate.wait()  # the second agrees, so the load goes on though the first has not answered
        joined.set()
        assert isinstance(first(), LoadCancelledError)
        gate.open()
        assert second() is None
        assert len(backend.made) == 1
        assert loaded[0].tokenize("x")


def test_the_one_that_joined_a_load_may_leave_it() -> None:
    """At once, though the load takes its time."""
    gate = Gate()
    backend = Loads(gate)
    with ModelManager(backend) as models:
        loaded: list[Model] = []
        first = loading(models, "a", loaded)
        gate.wait()
        with pytest.raises(LoadCancelledError):
            models.load("a", on_progress=lambda progress: False)
        gate.open()
        assert first() is None
        assert len(backend.made) == 1
        assert loaded[0].tokenize("x")


def test_a_load_that_all_have_given_up_ends() -> None:
    """The last one that leaves ends it, and waits for that; the next load is one of its own."""
    gate = Gate()
    backend = Loads(gate)
    with ModelManager(backend) as models:
        with pytest.raises(LoadCancelledError):
            models.load("a", on_progress=lambda progress: False)
        assert backend.made == []
        assert models.snapshot().models == ()
        gate.open()
        assert models.load("a").tokenize("x")
        assert len(backend.specs) == 2


def test_a_load_that_fails_fails_for_all_and_the_next_tries_again() -> None:
    """Each caller gets an error of its own with the same cause."""
    gate = Gate()
    backend = Loads(gate, KeyError("surprise"))
    with ModelManager(backend) as models:
        loaded: list[Model] = []
        waits = [loading(models, "a", loaded) for _ in range(2)]
        gate.wait()
        both_wait(models)
        gate.open()
        errors = [wait() for wait in waits]
        assert [type(error) for error in errors] == [ModelLoadError, ModelLoadError]
        assert errors[0] is not errors[1]
        assert all(error is not None and isinstance(error.__cause__, KeyError) for error in errors)
        gate.open()
        assert models.load("a").tokenize("x")


def test_a_file_is_known_by_where_it_is_and_what_it_is(tmp_path: Path) -> None:
    """A link to it is the same model; a file that has replaced it is another one, and the old one cannot come back."""
    file, link = tmp_path / "model.gguf", tmp_path / "link.gguf"
    file.write_bytes(b"GGUF")
    link.symlink_to(file)
    backend = FileLoads()
    with ModelManager(backend) as models:
        model, same = models.load(file), models.load(link)
        assert len(backend.made) == 1
        models.unload(link)
        assert backend.made[0].closed == 1
        assert model.tokenize("x")
        replacement = tmp_path / "new"
        replacement.write_bytes(b"GGUF")
        os.utime(replacement, ns=(1, 1))
        replacement.replace(file)
        other = models.load(file)
        assert len(backend.made) == 3
        models.unload(model)
        with pytest.raises(ModelLoadError, match="has changed since it was loaded"):
            same.tokenize("x")
        assert other.tokenize("x")


def test_loading_holds_up_no_stream() -> None:
    """A reply of one model comes while another one is being loaded, for as long as that takes."""
    gate = Gate()
    backend = Loads(gate)
    with ModelManager(backend) as models:
        gate.open()
        chat = ChatSession(models.load("a"))
        gate.wait()
        loaded: list[Model] = []
        wait = loading(models, "b", loaded)
        gate.wait()
        stream = chat.stream("hi")
        for word in ("one", "two"):
            backend.made[0].say(word)
            assert next(stream).text == word
        stream.cancel()
        gate.open()
        assert wait() is None


def test_ctrl_c_leaves_a_load_at_once() -> None:
    """The load ends at its next progress, and leaves nothing."""

    def interrupt(progress: LoadProgress) -> None:
        raise KeyboardInterrupt

    with no_thread_left(), ModelManager(Loads()) as models:
        with pytest.raises(KeyboardInterrupt):
            models.load("a", on_progress=interrupt)
        assert models.snapshot().models == ()


def test_a_bad_environment_harms_nobody_who_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is made when it is first asked for, and then says what is wrong."""
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with ModelManager(FakeBackend(["hello"])) as models:
        assert ChatSession(models.load("x")).send("hi").text == "hello"
        with pytest.raises(ValueError, match="nonsense"):
            models.store.list()
        with pytest.raises(ValueError, match="nonsense"):
            models.list()
    monkeypatch.delenv("HF_ENDPOINT")
    assert models.store is models.store

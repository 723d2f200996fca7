"""`ModelManager` and `Model`: backends by name, loading, closing, and errors translated."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from localllm import (
    Backend,
    BackendError,
    BackendUnavailableError,
    ChatSession,
    ClosedError,
    FakeBackend,
    InvalidOptionError,
    InvalidPromptError,
    LoadCancelledError,
    LoadedModel,
    LoadProgress,
    Message,
    ModelConfig,
    ModelLoadError,
    ModelManager,
    ModelNotFoundError,
    ProgressCallback,
    PromptTypeError,
)
from tests.by_hand import HandBackend, HandModel, loaded
from tests.chats import in_thread


class FileBackend(HandBackend):
    """A backend whose references lead to files."""

    uses_files = True


class NeedsArguments(HandBackend):
    """A backend that cannot be made by its import path alone."""

    def __init__(self, needed: str) -> None:
        super().__init__()


class Unavailable(HandBackend):
    """A backend whose package is missing."""

    def __init__(self) -> None:
        raise BackendUnavailableError("install it")


def test_a_manager_loads_models_and_closes_them() -> None:
    """Each by its name; leaving the `with` closes all of them; closing twice does nothing."""
    with ModelManager(FakeBackend(["one"])) as models:
        first, second = models.load("a"), models.load("b")
        assert (first.info.name, second.info.name) == ("a", "b")
        assert first is not second
        assert repr(first) == "<Model 'a'>"
        first.close()
        first.close()
        assert repr(first) == "<Model 'a' (closed)>"
        assert ChatSession(second).send("hi").text == "one"
    models.close()
    with pytest.raises(ClosedError, match=r"'b' is closed; load it again with ModelManager.load"):
        second.tokenize("x")
    with pytest.raises(ClosedError, match="this ModelManager is closed"):
        models.load("c")


def test_a_model_is_a_context_manager() -> None:
    """Leaving it closes the model, and the manager forgets it; its figures can still be read."""
    hand = HandModel()
    with ModelManager(HandBackend(hand)) as models:
        with models.load("x") as model:
            assert model.tokenize("ab") == (97, 98)
        assert hand.closed == 1
        assert model.stats().finished == 0
        assert model.info.name == "by hand"
    assert hand.closed == 1


def test_a_given_backend_stays_the_callers() -> None:
    """A manager closes the models that it loaded, and the backend only if it made it."""
    backend = FakeBackend(["one", "two"])
    for _ in range(2):
        with ModelManager(backend) as models:
            assert ChatSession(models.load("x")).send("hi").text in ("one", "two")
    hand = HandBackend()
    with ModelManager(hand) as models:
        model = models.load("x")
    assert (hand.model.closed, hand.closed) == (1, 0)
    assert repr(model) == "<Model 'by hand' (closed)>"


def test_a_backend_is_found_by_its_import_path() -> None:
    """The manager makes it, and closes it, too."""
    with ModelManager("tests.by_hand:HandBackend", isolation="thread") as models:
        model = models.load("x")
        assert model.info.backend == "hand"
    with pytest.raises(ClosedError):
        model.render([Message.user("x")])
    ModelManager("tests.by_hand:HandBackend").close()


@pytest.mark.parametrize(
    ("backend", "error", "says"),
    [
        ("lama.cpp", InvalidOptionError, r"unknown backend 'lama.cpp'; use 'llama.cpp', an import path"),
        ("", InvalidOptionError, "unknown backend ''"),
        ("a:b:c", InvalidOptionError, "unknown backend"),
        ("tests.by_hand:Missing", InvalidOptionError, "'Missing' in the module 'tests.by_hand' does not exist"),
        ("tests.by_hand:HandModel", InvalidOptionError, "not a subclass of localllm.Backend"),
        ("tests.by_hand:loaded", InvalidOptionError, "not a subclass of localllm.Backend"),
        ("no.such.module:Class", BackendUnavailableError, r"'no.such.module' does not import \(ModuleNotFoundError"),
        (7, InvalidOptionError, "backend must be a Backend, the name of one, or None"),
        (HandBackend, InvalidOptionError, "backend must be a Backend"),
    ],
    ids=repr,
)
def test_a_backend_that_cannot_be_had_is_said_at_once(backend: object, error: type[Exception], says: str) -> None:
    """By the constructor: what was looked for, and what is wrong with it."""
    with pytest.raises(error, match=says):
        ModelManager(cast("str", backend))


def test_a_module_that_fails_to_import_is_the_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it raises."""
    (tmp_path / "broken_backend.py").write_text("raise RuntimeError('no GPU')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="RuntimeError: no GPU") as caught:
        ModelManager("broken_backend:Backend", isolation="thread")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_backend_that_cannot_be_made_is_unavailable() -> None:
    """One that needs arguments is to be passed as an instance; its own error comes through as it is."""
    with pytest.raises(
        BackendUnavailableError, match=r"cannot be made without arguments .* pass an instance"
    ) as caught:
        ModelManager("tests.test_manager:NeedsArguments", isolation="thread").load("x")
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(BackendUnavailableError, match="install it"):
        ModelManager("tests.test_manager:Unavailable", isolation="thread").load("x")


def test_llama_cpp_is_the_default(tmp_path: Path) -> None:
    """With no backend named, references lead to files, and what is no model is refused."""
    for backend in (None, "llama.cpp"):
        with ModelManager(backend) as models, pytest.raises(ModelNotFoundError):
            models.load(tmp_path / "missing.gguf")


@pytest.mark.parametrize(
    ("backend", "isolation", "says"),
    [
        (FakeBackend([]), "process", r"an instance of a backend cannot run in a process .* import path"),
        ("__main__:Backend", "process", "a worker does not run your program"),
        (None, "fiber", "isolation must be 'process', 'thread' or None; got 'fiber'"),
    ],
    ids=["instance", "main", "fiber"],
)
def test_where_a_backend_runs(backend: Backend | str | None, isolation: str, says: str) -> None:
    """A process is refused to an instance, and to what only this program has."""
    with pytest.raises(InvalidOptionError, match=says):
        ModelManager(backend, isolation=cast("None", isolation))


def test_a_reference_leads_to_a_file_if_the_backend_uses_files(tmp_path: Path) -> None:
    """The backend is given the path; one without files is given the reference alone."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    for ref in (file, str(file)):
        backend = FileBackend()
        ModelManager(backend).load(ref)
        assert (backend.specs[0].path, backend.specs[0].ref) == (file, str(file))
    with pytest.raises(ModelNotFoundError):
        ModelManager(FileBackend()).load(tmp_path / "missing.gguf")
    fileless = HandBackend()
    ModelManager(fileless).load("anything")
    assert (fileless.specs[0].path, fileless.specs[0].ref) == (None, "anything")


def test_a_config_reaches_the_backend() -> None:
    """As it was given, or with its defaults."""
    backend = HandBackend()
    models = ModelManager(backend)
    models.load("x", config=ModelConfig(n_ctx=99))
    models.load("x")
    assert [spec.config for spec in backend.specs] == [ModelConfig(n_ctx=99), ModelConfig()]


class _BytesPath(os.PathLike[bytes]):
    def __fspath__(self) -> bytes:
        return b"x"


def test_arguments_of_the_wrong_type_are_refused() -> None:
    """Before the backend is asked."""
    backend = HandBackend()
    models = ModelManager(backend)
    for ref in (7, None, b"x", _BytesPath()):
        with pytest.raises(InvalidOptionError, match="ref must be a str or a path; got"):
            models.load(cast("str", ref))
    with pytest.raises(InvalidOptionError, match=r"config must be a ModelConfig or None; got \{'n_ctx': 8}"):
        models.load("x", config=cast("ModelConfig", {"n_ctx": 8}))
    assert backend.specs == []


def test_progress_is_told() -> None:
    """From the beginning to the end of the load."""
    told: list[LoadProgress] = []
    ModelManager(FakeBackend([])).load("x", on_progress=told.append)
    assert [progress.fraction for progress in told] == [0.0, 1.0]


def _answer(answer: object, progress: LoadProgress) -> object:
    return answer


def test_only_false_cancels_a_load() -> None:
    """None and 0 do not; a backend that looks away is overruled."""
    with ModelManager(FakeBackend([])) as models:
        for harmless in (None, 0, ""):
            models.load("x", on_progress=partial(_answer, harmless))
        with pytest.raises(LoadCancelledError):
            models.load("x", on_progress=lambda progress: False)
    deaf = HandBackend(before=lambda on_progress: [on_progress(LoadProgress("loading", part)) for part in (0.0, 1.0)])
    calls: list[float] = []

    def refuse(progress: LoadProgress) -> bool:
        calls.append(progress.fraction)
        return False

    with pytest.raises(LoadCancelledError, match="loading 'x' was cancelled by on_progress"):
        ModelManager(deaf).load("x", on_progress=refuse)
    assert deaf.model.closed == 1
    assert calls == [0.0]


def test_what_a_progress_function_raises_is_raised_by_load() -> None:
    """It crosses no native code: the load is cancelled, then the exception comes through as it is."""
    failure = ZeroDivisionError("mine")

    def fail(progress: LoadProgress) -> None:
        raise failure

    for backend in (FakeBackend([]), HandBackend(before=lambda tell: tell(LoadProgress("loading", 0.5)))):
        with ModelManager(backend) as models, pytest.raises(ZeroDivisionError) as caught:
            models.load("x", on_progress=fail)
        assert caught.value is failure


def test_a_foreign_exception_of_a_load_is_translated() -> None:
    """Into ModelLoadError, with its cause."""

    def explode(on_progress: ProgressCallback) -> None:
        raise KeyError("surprise")

    with pytest.raises(ModelLoadError, match=r"'hand' failed to load 'x': KeyError: 'surprise'") as caught:
        ModelManager(HandBackend(before=explode)).load("x")
    assert isinstance(caught.value.__cause__, KeyError)


def test_closing_the_manager_ends_a_load() -> None:
    """The load sees it with its next progress and raises ClosedError; a backend that looks away is overruled."""

    def close_and_obey(on_progress: ProgressCallback) -> None:
        models.close()
        if on_progress(LoadProgress("loading", 0.5)) is False:
            raise LoadCancelledError("cancelled")

    def close_and_go_on(on_progress: ProgressCallback) -> None:
        models.close()

    for before, closed in ((close_and_obey, 0), (close_and_go_on, 1)):
        backend = HandBackend(before=before)
        models = ModelManager(backend)
        with pytest.raises(ClosedError, match="this ModelManager is closed"):
            models.load("x")
        assert backend.model.closed == closed


def test_a_model_that_fails_to_close_does_not_keep_the_others_open() -> None:
    """All are closed, then the failure is raised."""

    class Stuck(HandModel):
        def close(self) -> None:
            super().close()
            raise OSError("stuck")

    class Several(HandBackend):
        def load(self, spec: object, on_progress: ProgressCallback | None = None) -> LoadedModel:
            return hands[len(loads) - 1] if loads.append(spec) is None else self.model  # type: ignore[func-returns-value]

    loads: list[object] = []
    hands = [HandModel(), Stuck(), HandModel()]
    models = ModelManager(Several())
    handles = [models.load(str(number)) for number, _ in enumerate(hands)]
    with pytest.raises(OSError, match="stuck"):
        models.close()
    assert len(handles) == 3
    assert [hand.closed for hand in hands] == [1, 1, 1]


def test_a_model_tokenizes_and_renders() -> None:
    """Text to tokens and back; a conversation as the model reads it."""
    with ModelManager(FakeBackend([])) as models:
        model = models.load("x")
        assert model.detokenize(model.tokenize("hello there")) == "hello there"
        rendered = model.render([Message.user("hello")])
        assert "hello" in rendered.text
        assert model.detokenize(rendered.tokens) == rendered.text
        assert model.render((Message.user("a"), Message("assistant", "b"))).text


def test_what_a_model_cannot_use_is_refused() -> None:
    """With the SDK's errors, whatever the backend would say."""
    model = loaded(HandModel())
    for text, error in ((7, PromptTypeError), ("\ud800", InvalidPromptError)):
        with pytest.raises(error):
            model.tokenize(cast("str", text))
    for tokens in (7, ["a"], [True], {1}):
        with pytest.raises(InvalidOptionError, match="tokens must be a sequence of int"):
            model.detokenize(cast("list[int]", tokens))
    for messages, refused in (
        ([], InvalidPromptError),
        ("text", PromptTypeError),
        (Message.user("x"), PromptTypeError),
        ([{"role": "user"}], PromptTypeError),
    ):
        with pytest.raises(refused):
            model.render(cast("list[Message]", messages))
    with pytest.raises(BackendError, match="'hand' failed in detokenize: IndexError: no such token") as caught:
        model.detokenize([1])
    assert isinstance(caught.value.__cause__, IndexError)


def test_managers_are_used_from_many_threads() -> None:
    """Loads and closes at once, by many names: nothing is left in the end, and nothing was closed too early."""

    def work(name: str) -> None:
        for _ in range(20):
            with models.load(name) as model:
                assert model.tokenize("hi")

    with ModelManager(FakeBackend([])) as models:
        waits = [in_thread(partial(work, str(number % 3))) for number in range(8)]
        assert [wait() for wait in waits] == [None] * 8
        assert models.snapshot().models == ()


def test_the_backend_is_made_once() -> None:
    """By the first load, whichever thread that is."""
    module = ModuleType("counting_backend")
    made: list[object] = []

    class Counting(HandBackend):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    vars(module)["Counting"] = Counting
    sys.modules["counting_backend"] = module
    try:
        with ModelManager("counting_backend:Counting", isolation="thread") as models:
            assert made == []
            models.load("x")
            models.load("x")
            assert len(made) == 1
        assert made[0].closed == 1  # type: ignore[attr-defined]
    finally:
        del sys.modules["counting_backend"]

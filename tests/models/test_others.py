"""What other programs have downloaded: found by their names, never changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from localllm.errors import ModelNotFoundError, StoreError
from localllm.models.store import ModelStore
from tests.models.fetching import gguf_bytes

DATA = gguf_bytes(40_000)
SHA = hashlib.sha256(DATA).hexdigest()


def store_of(tmp_path: Path, environment: Mapping[str, str] | None = None) -> ModelStore:
    """A store of a user whose home directory is `tmp_path`."""
    return ModelStore(tmp_path / "store", environment={"HOME": str(tmp_path), **(environment or {})})


def add_to_ollama(root: Path, path: str, *, digest: str = f"sha256:{SHA}", blob: bool = True) -> None:
    """Put a model there as Ollama does."""
    manifest = root / "manifests" / path
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "0" * 64, "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": len(DATA)},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    (root / "blobs").mkdir(exist_ok=True)
    if blob:
        (root / "blobs" / f"sha256-{SHA}").write_bytes(DATA)


def add_files(folder: Path, *names: str) -> None:
    """Put models there."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gguf_bytes(seed=number))


@pytest.mark.parametrize(
    ("path", "ref"),
    [
        ("registry.ollama.ai/library/llama3.2/latest", "ollama:llama3.2:latest"),
        ("registry.ollama.ai/me/mine/v1", "ollama:me/mine:v1"),
        ("hf.co/org/repo/Q4_K_M", "ollama:hf.co/org/repo:Q4_K_M"),
    ],
)
def test_ollama_s_models_are_found_by_the_names_it_lists(tmp_path: Path, path: str, ref: str) -> None:
    """From the library, of a user, of another host; with the checksum that its blob is named by."""
    add_to_ollama(tmp_path / ".ollama/models", path)
    store = store_of(tmp_path)
    model = store.find(ref)
    assert model.path.read_bytes() == DATA
    assert (model.origin, model.files[0].sha256) == ("ollama", SHA)
    assert model in store.list(others=True)
    assert model not in store.list()
    assert store.verify(ref).ok
    assert store.pull(ref) == model
    assert store.inspect(ref).path == model.path


def test_ollama_s_folder_may_be_elsewhere(tmp_path: Path) -> None:
    """As its own variable says; "latest" need not be named."""
    add_to_ollama(tmp_path / "there", "registry.ollama.ai/library/llama3.2/latest")
    assert store_of(tmp_path, {"OLLAMA_MODELS": str(tmp_path / "there")}).resolve("ollama:llama3.2").is_file()


def test_a_wrong_name_of_ollama_s_is_answered_with_what_it_has(tmp_path: Path) -> None:
    """And where was looked; with nothing there, with how to get it."""
    with pytest.raises(ModelNotFoundError, match=r"Ollama has no model 'ollama:llama3.2:latest'.*`ollama pull"):
        store_of(tmp_path).find("ollama:llama3.2")
    add_to_ollama(tmp_path / ".ollama/models", "registry.ollama.ai/library/llama3.2/1b")
    with pytest.raises(ModelNotFoundError, match=r"is it ollama:llama3.2:1b\?"):
        store_of(tmp_path).find("ollama:llama3.2")


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "md5:0", "sha256:" + "1" * 64])
def test_a_manifest_that_leads_nowhere_is_no_model(tmp_path: Path, digest: str) -> None:
    """Or out of the blobs."""
    add_to_ollama(tmp_path / ".ollama/models", "registry.ollama.ai/library/bad/latest", digest=digest)
    store = store_of(tmp_path)
    with pytest.raises(ModelNotFoundError):
        store.find("ollama:bad")
    assert [model for model in store.list(others=True) if model.origin == "ollama"] == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"layers": 3}', '{"layers": [3, {}]}'])
def test_a_damaged_manifest_is_no_model(tmp_path: Path, content: str) -> None:
    """Rather than an error of ours."""
    add_to_ollama(tmp_path / ".ollama/models", "registry.ollama.ai/library/bad/latest")
    (tmp_path / ".ollama/models/manifests/registry.ollama.ai/library/bad/latest").write_text(content)
    with pytest.raises(ModelNotFoundError):
        store_of(tmp_path).find("ollama:bad")


def test_lm_studio_s_models_are_found(tmp_path: Path) -> None:
    """By publisher and repository, by quantization, by file, and by a part of the file's name."""
    root = tmp_path / ".lmstudio/models"
    add_files(root, "pub/Llama-GGUF/Llama-Q4_K_M.gguf", "pub/Llama-GGUF/Llama-Q8_0.gguf", "other/Phi/phi-Q4_0.gguf")
    store = store_of(tmp_path)
    assert store.resolve("lmstudio:pub/Llama-GGUF").name == "Llama-Q4_K_M.gguf"
    assert store.resolve("lmstudio:pub/Llama-GGUF:Q8_0").name == "Llama-Q8_0.gguf"
    assert store.resolve("lmstudio:pub/Llama-GGUF/Llama-Q8_0.gguf").name == "Llama-Q8_0.gguf"
    assert store.resolve("lmstudio:phi") == root / "other/Phi/phi-Q4_0.gguf"
    with pytest.raises(ModelNotFoundError, match="is several models"):
        store.find("lmstudio:llama")
    with pytest.raises(ModelNotFoundError, match=r"LM Studio has no model 'lmstudio:pub/Lama'.*is it lmstudio:"):
        store.find("lmstudio:pub/Lama")
    found = [model for model in store.list(others=True) if model.origin == "lmstudio"]
    assert len(found) == 3
    for model in found:
        assert store.find(model.ref).path == model.path


def test_lm_studio_s_folder_may_be_elsewhere(tmp_path: Path) -> None:
    """As its pointer and its settings say."""
    add_files(tmp_path / "home/models", "pub/a/a-Q4_0.gguf")
    add_files(tmp_path / "downloads", "pub/b/b-Q4_0.gguf")
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'home'}\n")
    (tmp_path / "home/settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "downloads")}))
    store = store_of(tmp_path)
    assert store.resolve("lmstudio:pub/a").is_file()
    assert store.resolve("lmstudio:pub/b").is_file()


def test_the_hugging_face_cache_is_read(tmp_path: Path) -> None:
    """By branch and by commit; what it holds only in part is not there."""
    repo = tmp_path / ".cache/huggingface/hub/models--org--repo"
    add_files(repo / "snapshots/abc123f", "m-Q4_K_M.gguf", "m-00001-of-00002.gguf")
    (repo / "snapshots/abc123f/broken-Q8_0.gguf").symlink_to("nowhere")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("abc123f")
    store = store_of(tmp_path)
    assert store.resolve("hf:org/repo") == store.resolve("hf:org/repo:Q4_K_M@abc123f")
    for ref in ("hf:org/repo:Q8_0", "hf:org/repo@v2", "hf:org/repo/m-00001-of-00002.gguf"):
        with pytest.raises(ModelNotFoundError, match="in the Hugging Face cache"):
            store.find(ref)
    (model,) = (model for model in store.list(others=True) if model.origin == "huggingface")
    assert store.find(model.ref).path == model.path


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_hugging_face_cache_may_be_elsewhere(tmp_path: Path, variable: str) -> None:
    """As its own variables say."""
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    repo = tmp_path / "there" / below / "models--org--repo"
    add_files(repo / "snapshots/abc", "m.gguf")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("abc")
    assert store_of(tmp_path, {variable: str(tmp_path / "there")}).resolve("hf:org/repo").is_file()


def test_nothing_of_others_is_ever_removed(tmp_path: Path) -> None:
    """Whoever it belongs to is named, with the command."""
    add_to_ollama(tmp_path / ".ollama/models", "registry.ollama.ai/library/llama3.2/latest")
    add_files(tmp_path / ".lmstudio/models", "pub/a/a-Q4_0.gguf")
    store = store_of(tmp_path)
    for ref, said in (("ollama:llama3.2", "`ollama rm`"), ("lmstudio:pub/a", "belongs to LM Studio")):
        with pytest.raises(StoreError, match=said):
            store.remove(ref)
        assert store.resolve(ref).is_file()

"""The store: what is listed, found, verified and removed, and an index that survives what happens to files."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from localllm.errors import (
    DownloadCancelledError,
    InvalidModelFileError,
    InvalidOptionError,
    ModelNotFoundError,
    StoreError,
)
from localllm.models.cancel import Cancellation
from localllm.models.index import Index
from localllm.models.layout import Layout, home_folder
from localllm.models.store import ModelStore
from localllm.models.stored import StoredFile, StoredModel
from tests.models.fetching import Log, MakeStore, gguf_bytes, tree
from tests.models.hub_server import COMMIT, Hold, HubServer

DATA = gguf_bytes(40_000)


@pytest.fixture
def pulled(hub: HubServer, make_store: MakeStore) -> ModelStore:
    """A store with a model of the Hub in one file, one in two parts, and one of an address."""
    hub.add("org/one", {"m-Q4_K_M.gguf": DATA, "m-Q8_0.gguf": gguf_bytes(seed=1)})
    hub.add("org/two", {f"q/m-0000{number}-of-00002.gguf": gguf_bytes(seed=number) for number in (1, 2)})
    hub.files["/models/x.gguf"] = gguf_bytes(seed=3)
    store = make_store()
    for ref in ("hf:org/one:Q4_K_M", "hf:org/one:Q8_0", "hf:org/two", f"{hub.url}/models/x.gguf"):
        store.pull(ref)
    return store


def own(store: ModelStore) -> list[StoredModel]:
    """The store's own models."""
    return [model for model in store.list() if model.origin == "store"]


def test_what_was_pulled_is_listed(pulled: ModelStore, hub: HubServer) -> None:
    """By references that lead back to it, sorted; and what installed packages bring."""
    assert [model.ref for model in own(pulled)] == [
        f"hf:org/one/m-Q4_K_M.gguf@{COMMIT}",
        f"hf:org/one/m-Q8_0.gguf@{COMMIT}",
        f"hf:org/two/q/m-00001-of-00002.gguf@{COMMIT}",
        f"{hub.url}/models/x.gguf",
    ]
    for model in pulled.list():
        assert pulled.find(model.ref) == model
    assert [model.ref for model in pulled.list() if model.origin == "package"] == ["smollm2-135m"]


def test_an_empty_store_leaves_no_trace(tmp_path: Path) -> None:
    """Looking makes no folder."""
    store = ModelStore(tmp_path / "home", environment={"HOME": str(tmp_path)})
    assert own(store) == []
    with pytest.raises(ModelNotFoundError, match="fetch it with `localllm pull hf:org/repo`"):
        store.find("hf:org/repo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"version": 1, "models": [3]}', '{"version": 1}', "\xff"])
def test_a_lost_or_damaged_index_is_made_again(pulled: ModelStore, content: str | None) -> None:
    """With everything that was in it: checksums, revisions and all."""
    before = own(pulled)
    index = pulled.home / "index.json"
    if content is None:
        index.unlink()
    else:
        index.write_text(content, encoding="latin-1")
    assert own(pulled) == before
    assert json.loads(index.read_text())["version"] == 1


def test_without_notes_the_hub_s_models_are_found_by_their_folders(pulled: ModelStore) -> None:
    """Index and notes lost: the references are the same, only the checksums are not known any more."""
    before = [model.ref for model in own(pulled) if model.ref.startswith("hf:")]
    for path in (pulled.home / "index.json", *pulled.home.rglob("*.gguf.json")):
        path.unlink()
    assert [model.ref for model in own(pulled)] == before
    assert pulled.find("hf:org/one:Q4_K_M").path.read_bytes() == DATA
    assert pulled.find("hf:org/one:Q4_K_M").files[0].sha256 is None
    assert pulled.verify("hf:org/two").ok


def test_a_note_that_lies_about_files_is_not_believed(pulled: ModelStore) -> None:
    """Other names, other sizes: the folder is believed instead."""
    (pulled.home / "index.json").unlink()
    model = next(path for path in pulled.home.rglob("m-Q4_K_M.gguf.json"))
    note = json.loads(model.read_text())
    outside = pulled.home.parent / "precious.gguf"
    outside.write_bytes(DATA)
    note["files"][0]["name"] = "../../precious.gguf"
    model.write_text(json.dumps(note))
    pulled.remove("hf:org/one:Q4_K_M")
    assert outside.read_bytes() == DATA


def test_an_index_of_a_newer_version_is_left_alone(pulled: ModelStore) -> None:
    """Rather than read wrongly, or overwritten."""
    index = pulled.home / "index.json"
    index.write_text('{"version": 99, "models": []}')
    with pytest.raises(StoreError, match="newer version of localllm"):
        pulled.list()
    assert "99" in index.read_text()


def test_a_model_whose_file_is_gone_is_not_listed(pulled: ModelStore) -> None:
    """Somebody deleted it by hand."""
    path = pulled.resolve("hf:org/one:Q4_K_M")
    path.unlink()
    assert path not in [model.path for model in own(pulled)]
    assert pulled.resolve("hf:org/one") != path


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each adds and discards its own models, and the others' stay; readers never see half an index."""
    layout = Layout(tmp_path)
    (layout.models / "hf").mkdir(parents=True)
    failures: list[BaseException] = []

    def write(number: int) -> None:
        index = Index(layout, lambda: None)
        try:
            for turn in range(6):
                path = layout.models / "hf" / f"{number}-{turn}.gguf"
                path.touch()
                file = StoredFile(path=path, size_bytes=0, sha256="a" * 64)
                model = StoredModel(ref=f"{number}-{turn}", files=(file,), origin="store")
                index.add(model)
                assert model in index.models()
                if turn % 2:
                    index.discard(model)
        except (AssertionError, OSError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    expected = sorted(f"{number}-{turn}" for number in range(4) for turn in (0, 2, 4))
    assert [model.ref for model in Index(layout, lambda: None).models()] == expected


def test_verify_finds_every_kind_of_damage(pulled: ModelStore) -> None:
    """A changed byte, a lost end, a lost part; and a good model is good."""
    assert pulled.verify("hf:org/one:Q4_K_M").ok
    first, second = (file.path for file in pulled.find("hf:org/two").files)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.write_bytes(second.read_bytes()[:-10])
    log = Log()
    found = pulled.verify("hf:org/two", on_progress=log)
    assert not found.ok
    assert "should have the SHA-256" not in found.files[1].problem
    assert found.files[0].problem.endswith(f"should have {found.files[0].expected}")
    assert found.files[1].problem == f"has {second.stat().st_size} bytes, should have {second.stat().st_size + 10}"
    assert log.phases == ["checking", "done"]
    with pytest.raises(DownloadCancelledError):
        pulled.verify("hf:org/two", on_progress=lambda progress: False)
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(DownloadCancelledError):
        pulled.verify("hf:org/two", cancel=cancel)


def test_verify_of_a_file_without_a_checksum_reads_its_header(pulled: ModelStore, tmp_path: Path) -> None:
    """A path of the user's: cut off, it is told."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    assert pulled.verify(path).ok
    path.write_bytes(DATA[:-100])
    (check,) = pulled.verify(path).files
    assert "mine.gguf" in check.problem
    assert check.expected is None


def test_remove_deletes_what_the_store_owns(pulled: ModelStore) -> None:
    """Files, note and empty folders; other models stay."""
    pulled.remove("hf:org/one:Q4_K_M")
    pulled.remove("hf:org/two")
    assert [model.path.name for model in own(pulled)] == ["m-Q8_0.gguf", "x.gguf"]
    assert not (pulled.home / "models/hf/org/two").exists()
    with pytest.raises(ModelNotFoundError):
        pulled.remove("hf:org/two")
    for model in own(pulled):
        pulled.remove(model.ref)
    assert list((pulled.home / "models").iterdir()) == []


def test_remove_touches_nothing_of_others(pulled: ModelStore, tmp_path: Path) -> None:
    """Neither a path of the user's nor a package's file."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    with pytest.raises(StoreError, match="is a file of yours"):
        pulled.remove(path)
    with pytest.raises(StoreError, match="belongs to a Python package; `pip uninstall`"):
        pulled.remove("smollm2-135m")
    assert path.exists()
    assert pulled.resolve("smollm2-135m").exists()


def test_what_is_being_fetched_is_not_removed(hub: HubServer, make_store: MakeStore) -> None:
    """Its lock is held."""
    hub.add("org/repo", {"m.gguf": DATA})
    store = make_store()
    store.pull("hf:org/repo")
    repo = hub.repos["org/repo"]
    repo.files["m.gguf"] = gguf_bytes(seed=9)  # the same commit, so the same name
    hold = Hold(100)
    hub.faults.append(hold)
    thread = threading.Thread(target=store.pull, args=("hf:org/repo",))
    path = store.resolve("hf:org/repo")
    thread.start()
    assert hold.reached.wait(10)
    path.write_bytes(DATA)
    with pytest.raises(StoreError, match="being fetched or removed by somebody else"):
        store.remove("hf:org/repo")
    assert store.clear_partial() == 0
    hold.go.set()
    thread.join(10)
    assert store.verify("hf:org/repo").ok


def test_partial_downloads_can_be_cleared(hub: HubServer, make_store: MakeStore) -> None:
    """What a cancelled pull left."""
    hub.add("org/repo", {"m.gguf": DATA})
    store = make_store()
    with pytest.raises(DownloadCancelledError):
        store.pull("hf:org/repo", on_progress=lambda progress: progress.phase != "downloading")
    assert any(name.endswith(".part") for name in tree(store.home))
    store.clear_partial()
    assert tree(store.home / "partial") == {}
    assert store.clear_partial() == 0


def test_inspect_reads_the_header(pulled: ModelStore) -> None:
    """Of any reference that is here."""
    assert pulled.inspect("smollm2-135m").architecture == "llama"
    assert pulled.inspect("hf:org/one:Q8_0").path == pulled.resolve("hf:org/one:Q8_0")


def test_a_path_to_any_part_means_the_whole_model(pulled: ModelStore) -> None:
    """With all its files, where they are complete."""
    first, second = (file.path for file in pulled.find("hf:org/two").files)
    assert [file.path for file in pulled.find(str(second)).files] == [first, second]
    second.unlink()
    assert pulled.find(str(first)).path == first


def test_what_is_near_is_told(pulled: ModelStore) -> None:
    """What was fetched under a similar name."""
    with pytest.raises(ModelNotFoundError, match=r"no quantization 'Q4_K_S'; is it Q4_K_M"):
        pulled.find("hf:org/one:Q4_K_S")
    with pytest.raises(ModelNotFoundError, match=r"is it hf:org/one/m-Q"):
        pulled.find(f"hf:org/onee/m-Q8_0.gguf@{COMMIT}")


def test_local_references_are_pulled_without_a_network(pulled: ModelStore, tmp_path: Path, hub: HubServer) -> None:
    """A path, a package's model: found, or told."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(DATA)
    asked = len(hub.seen)
    assert pulled.pull(path).path == path
    assert pulled.pull("smollm2-135m").origin == "package"
    with pytest.raises(ModelNotFoundError):
        pulled.pull("ollama:nothing")
    with pytest.raises(InvalidModelFileError):
        pulled.pull(tmp_path)
    assert [pulled.fetchable(ref) for ref in ("hf:a/b", "https://h/x.gguf", "smollm2-135m", "x", "ollama:x")] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert len(hub.seen) == asked


def test_the_folder_is_an_option_a_variable_or_the_platform_s(tmp_path: Path) -> None:
    """In this order; "~" is the home directory."""
    assert home_folder(tmp_path, {"LOCALLLM_HOME": "/elsewhere"}) == tmp_path
    assert home_folder(None, {"LOCALLLM_HOME": str(tmp_path)}) == tmp_path
    assert home_folder(None, {}).name == "localllm"
    assert home_folder(Path("~/x"), {}) == Path.home() / "x"
    with pytest.raises(InvalidOptionError, match="set LOCALLLM_HOME"):
        home_folder(Path("~nobody-of-this-name/x"), {})


def test_a_file_that_cannot_be_deleted_is_told(pulled: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows does while the model is loaded; the model stays listed."""

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use", os.fspath(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(StoreError, match="is the model loaded"):
            pulled.remove("hf:org/one:Q4_K_M")
    assert pulled.verify("hf:org/one:Q4_K_M").ok

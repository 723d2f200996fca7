"""Pulling: which file, from where, with which token, and where it goes."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm.errors import (
    AccessDeniedError,
    ChecksumError,
    InvalidOptionError,
    LocalLLMError,
    ModelNotFoundError,
    OfflineError,
    ServerError,
    StoreError,
    UnsafeNameError,
)
from localllm.models.network import Network
from localllm.models.retry import RetryPolicy
from localllm.models.store import ModelStore
from tests.models.fetching import FakeTime, Log, MakeStore, gguf_bytes, tree
from tests.models.hub_server import COMMIT, Cut, HubServer, Redirect, hub_server

DATA = gguf_bytes(40_000)
TOKEN = "hf_verysecrettoken"


def sha256(data: bytes) -> str:
    """The checksum of `data`."""
    return hashlib.sha256(data).hexdigest()


def test_without_a_quantization_the_usual_one_is_taken(hub: HubServer, make_store: MakeStore) -> None:
    """Q4_K_M where there is one; the model is noted with what the Hub told of it."""
    hub.add("org/repo", {f"m-{quant}.gguf": gguf_bytes(seed=n) for n, quant in enumerate(("Q8_0", "Q4_K_M", "F16"))})
    model = make_store().pull("hf:org/repo")
    assert model.ref == f"hf:org/repo/m-Q4_K_M.gguf@{COMMIT}"
    assert (model.origin, model.revision, model.commit) == ("store", "main", COMMIT)
    assert model.files[0].sha256 == sha256(gguf_bytes(seed=1)) == sha256(model.path.read_bytes())


@pytest.mark.parametrize(
    "ref",
    ["hf:org/repo:q8_0", "hf:org/repo/sub/m-Q8_0.gguf", "hf:org/repo@v1:Q8_0", f"hf:org/repo/sub/m-Q8_0.gguf@{COMMIT}"],
)
def test_quantization_file_and_revision_can_be_named(hub: HubServer, make_store: MakeStore, ref: str) -> None:
    """What was pulled under a reference is found under it, without the network."""
    hub.add("org/repo", {"sub/m-Q8_0.gguf": DATA, "m-Q4_K_M.gguf": gguf_bytes(seed=1)})
    store = make_store()
    model = store.pull(ref)
    assert model.path.read_bytes() == DATA
    asked = len(hub.seen)
    assert make_store().find(ref) == model == make_store().find(model.ref)
    assert len(hub.seen) == asked


def test_a_revision_with_a_slash_reaches_the_hub(hub: HubServer, make_store: MakeStore) -> None:
    """A pull request's files, as one path segment."""
    hub.add("org/repo", {"m.gguf": DATA})
    assert make_store().pull("hf:org/repo@refs/pr/1").revision == "refs/pr/1"
    assert "/revision/refs%2Fpr%2F1?" in hub.api_requests[0].path


def test_a_model_in_parts_is_one(hub: HubServer, make_store: MakeStore) -> None:
    """All parts lie beside each other; the progress counts them together."""
    parts = {f"Q8_0/m-Q8_0-0000{n}-of-00003.gguf": gguf_bytes(seed=n) for n in (1, 2, 3)}
    hub.add("org/repo", parts)
    log = Log()
    store = make_store()
    model = store.pull("hf:org/repo:Q8_0", on_progress=log)
    assert [file.path.name for file in model.files] == [name.split("/")[1] for name in parts]
    assert len({file.path.parent for file in model.files}) == 1
    assert model.size_bytes == sum(map(len, parts.values())) == log.events[-1].done_bytes == log.events[-1].total_bytes
    second = next(event for event in log.events if "00002" in event.file)
    assert second.done_bytes >= len(parts["Q8_0/m-Q8_0-00001-of-00003.gguf"])
    assert store.find("hf:org/repo/Q8_0/m-Q8_0-00002-of-00003.gguf") == model
    assert store.remove("hf:org/repo") == model
    assert not tree(store.home / "models")


def test_a_model_in_parts_goes_on_where_it_broke(hub: HubServer, make_store: MakeStore) -> None:
    """Whole parts are not fetched again, and are not the model yet."""
    hub.add("org/repo", {f"m-0000{n}-of-00002.gguf": gguf_bytes(seed=n) for n in (1, 2)})
    hub.faults.extend([None, Cut(100)])
    store = make_store(retries=0)
    with pytest.raises(LocalLLMError):
        store.pull("hf:org/repo")
    assert [model for model in store.list() if model.origin == "store"] == []
    model = store.pull("hf:org/repo")
    assert store.verify("hf:org/repo").ok
    assert [seen.headers.get("range") for seen in hub.data_requests] == [None, None, "bytes=100-"]
    assert model in store.list()


def test_an_address_is_fetched_and_found_again(hub: HubServer, make_store: MakeStore) -> None:
    """With a query, which is not noted, since it may hold a signature; in parts, too."""
    hub.files |= {f"/models/x-0000{n}-of-00002.gguf": gguf_bytes(seed=n) for n in (1, 2)}
    hub.files["/models/y.gguf"] = DATA
    store = make_store()
    model = store.pull(f"{hub.url}/models/x-00001-of-00002.gguf")
    assert len(model.files) == 2
    assert store.find(f"{hub.url}/models/x-00002-of-00002.gguf") == model
    signed = f"{hub.url}/models/y.gguf?signature=s3cret"
    assert store.pull(signed) == store.find(signed)
    assert store.find(store.find(signed).ref) == store.find(signed)
    assert all("s3cret" not in path.read_text() for path in store.home.rglob("*.json"))


def test_a_file_s_page_on_the_hub_is_the_same_as_its_reference(hub: HubServer, make_store: MakeStore) -> None:
    """So it is checked against the Hub's checksum."""
    hub.add("org/repo", {"m.gguf": DATA})
    for kind in ("resolve", "blob"):
        model = make_store().pull(f"{hub.url}/org/repo/{kind}/main/m.gguf")
        assert model.ref.startswith("hf:org/repo/m.gguf@")
        assert make_store().find(f"{hub.url}/org/repo/{kind}/main/m.gguf") == model


def test_the_caller_s_checksum_counts(hub: HubServer, make_store: MakeStore) -> None:
    """From any server; and one that contradicts the Hub's is told before anything is fetched."""
    hub.files["/models/x.gguf"] = DATA
    hub.add("org/repo", {"m.gguf": DATA})
    store = make_store()
    with pytest.raises(ChecksumError, match="expected " + "0" * 64):
        store.pull(f"{hub.url}/models/x.gguf", sha256="0" * 64)
    with pytest.raises(ChecksumError, match="not fetched"):
        store.pull("hf:org/repo", sha256="0" * 64)
    assert len(hub.data_requests) == 1
    assert store.pull(f"{hub.url}/models/x.gguf", sha256=sha256(DATA).upper()).path.read_bytes() == DATA
    with pytest.raises(InvalidOptionError, match="64 hexadecimal digits"):
        store.pull("hf:org/repo", sha256="abc")


def test_a_new_version_is_fetched_beside_the_old_one(hub: HubServer, make_store: MakeStore) -> None:
    """`pull` asks what the branch means now; the newest is found without a revision, the old one by its commit."""
    repo = hub.add("org/repo", {"m.gguf": DATA})
    store = make_store()
    old = store.pull("hf:org/repo")
    repo.commit, repo.files["m.gguf"] = "f" * 40, gguf_bytes(seed=5)
    new = store.pull("hf:org/repo")
    assert new.path.read_bytes() != old.path.read_bytes() == DATA
    assert store.find("hf:org/repo") == new
    assert store.find(f"hf:org/repo@{COMMIT}") == old
    store.remove("hf:org/repo")
    assert store.find("hf:org/repo") == old


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        (
            "hf:org/nothing",
            r"hf:org/nothing@main: not found \(status 401, RepoNotFound\); if it is private, set HF_TOKEN",
        ),
        ("hf:org/repo@v2", r"hf:org/repo@v2: not found \(status 404, RevisionNotFound\)"),
        ("hf:org/repo:Q4_K_S", r"no quantization 'Q4_K_S'; is it Q4_K_M\? It has Q4_K_M, Q8_0"),
        ("hf:org/repo/m-Q4_K_L.gguf", r"no file 'm-Q4_K_L.gguf'; is it m-Q4_K_M.gguf"),
        ("hf:org/text", r"hf:org/text has no .gguf model"),
    ],
)
def test_what_the_hub_does_not_have_is_told_with_what_is_near(
    hub: HubServer, make_store: MakeStore, ref: str, said: str
) -> None:
    """No repository, no revision, no quantization, no file, no model."""
    hub.add("org/repo", {"m-Q4_K_M.gguf": DATA, "m-Q8_0.gguf": DATA})
    hub.add("org/text", {"notes.txt": b"x"})
    with pytest.raises(ModelNotFoundError, match=said):
        make_store().pull(ref)
    assert hub.data_requests == []


def test_a_token_goes_to_its_host_only(hub: HubServer, make_store: MakeStore) -> None:
    """To the Hub, not to the storage that it redirects to, nor to any other server."""
    hub.add("org/repo", {"m.gguf": DATA}).token = TOKEN
    hub.files["/models/x.gguf"] = DATA
    store = make_store(token=f" {TOKEN}\n")
    assert store.pull("hf:org/repo").path.read_bytes() == DATA
    hub_port = hub.url.rpartition(":")[2]
    store.pull(f"http://localhost:{hub_port}/models/x.gguf")
    for seen in hub.seen:
        to_hub = seen.headers["host"].startswith("127.0.0.1")
        assert seen.headers.get("authorization") == (f"Bearer {TOKEN}" if to_hub else None)


def test_a_token_does_not_follow_a_redirect_to_another_port(make_store: MakeStore, hub: HubServer) -> None:
    """Scheme, host and port must be the endpoint's; back there, it is sent again."""
    hub.redirects = False
    hub.add("org/repo", {"m.gguf": DATA})
    with hub_server() as other:
        hub.faults.append(Redirect(f"{other.url}/models/x.gguf"))
        other.files["/models/x.gguf"] = DATA
        other.faults.append(Redirect(f"{hub.url}/models/y.gguf"))
        hub.files["/models/y.gguf"] = DATA
        make_store(token=TOKEN).pull("hf:org/repo")
        assert "authorization" not in other.seen[0].headers
    assert hub.seen[-1].path == "/models/y.gguf"
    assert hub.seen[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_gated_model_without_a_token_says_what_to_do(hub: HubServer, make_store: MakeStore) -> None:
    """And with a wrong one that it is wrong, without showing it."""
    hub.add("org/repo", {"m.gguf": DATA}).token = TOKEN
    with pytest.raises(AccessDeniedError, match="accept its terms on its page, and set HF_TOKEN") as caught:
        make_store().pull("hf:org/repo")
    assert isinstance(caught.value, PermissionError)
    with pytest.raises(AccessDeniedError, match="the token given does not open it") as caught:
        make_store(token="hf_wrong").pull("hf:org/repo")
    assert "hf_wrong" not in str(caught.value)


def test_no_log_shows_a_token(hub: HubServer, make_store: MakeStore) -> None:
    """At the most talkative level, of all loggers; nor does any repr."""
    hub.add("org/repo", {"m.gguf": DATA})
    stream = io.StringIO()
    handler, root = logging.StreamHandler(stream), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        store = make_store(token=TOKEN)
        store.pull("hf:org/repo")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "127.0.0.1" in stream.getvalue()  # something was logged
    assert TOKEN not in stream.getvalue() + repr(store.network) + repr(store)


def test_redirects_end(hub: HubServer, make_store: MakeStore) -> None:
    """After ten."""
    hub.files["/models/x.gguf"] = DATA
    hub.faults.extend([Redirect("/models/x.gguf")] * 20)
    with pytest.raises(ServerError, match="more than 10 redirects"):
        make_store().pull(f"{hub.url}/models/x.gguf")


def test_offline_asks_nobody(hub: HubServer, make_store: MakeStore) -> None:
    """By option and by variable; what is here is still found."""
    hub.add("org/repo", {"m.gguf": DATA})
    model = make_store().pull("hf:org/repo")
    asked = len(hub.seen)
    for name in ("HF_HUB_OFFLINE", "LOCALLLM_OFFLINE"):
        store = ModelStore(make_store.home, endpoint=hub.url, environment={name: "1"})
        assert store.pull("hf:org/repo") == store.find("hf:org/repo") == model
        with pytest.raises(OfflineError, match=r"is not on this machine.*offline mode is on"):
            store.pull("hf:org/other")
    with pytest.raises(OfflineError):
        ModelStore(make_store.home, endpoint=hub.url, offline=True, environment={}).pull(f"{hub.url}/models/x.gguf")
    assert len(hub.seen) == asked


def test_the_environment_says_endpoint_and_token(hub: HubServer, tmp_path: Path) -> None:
    """`HF_ENDPOINT` and `HF_TOKEN`; options win."""
    hub.add("org/repo", {"m.gguf": DATA}).token = TOKEN
    environment = {"HF_ENDPOINT": f"{hub.url}/", "HF_TOKEN": TOKEN, "LOCALLLM_HOME": str(tmp_path / "there")}
    store = ModelStore(environment=environment)
    assert store.home == tmp_path / "there"
    assert store.home in store.pull("hf:org/repo").path.parents
    assert ModelStore(endpoint="https://mirror.example/hub", environment=environment).network.endpoint.endswith("/hub")


def test_a_proxy_is_used(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's, or the one given."""
    hub.add("org/repo", {"m.gguf": DATA})
    hub.redirects = False
    network = Network(endpoint="http://hub.example", proxy=hub.url, timing=FakeTime().timing)
    ModelStore(tmp_path / "a", network=network, environment={}).pull("hf:org/repo")
    assert all(seen.headers["x-was-proxied"] == "yes" for seen in hub.seen)
    assert hub.seen[0].headers["host"] == "hub.example"
    monkeypatch.setenv("http_proxy", hub.url)
    asked = len(hub.seen)
    ModelStore(tmp_path / "b", endpoint="http://hub.example", environment={}).pull("hf:org/repo")
    assert all(seen.headers["x-was-proxied"] == "yes" for seen in hub.seen[asked:])
    with pytest.raises(InvalidOptionError, match="proxy's address cannot be used"):
        ModelStore(tmp_path, network=Network(endpoint=hub.url, proxy="nonsense"), environment={}).pull("hf:org/repo")


UNSAFE = (
    "../../evil-Q4_K_M.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf", "C:evil.gguf", "C:\\evil.gguf",
    "nul\0.gguf", "CON.gguf", "sub/aux/evil.gguf", "com1.x.gguf", "a//evil.gguf", "./evil.gguf", "evil\n.gguf",
    "x" * 300 + ".gguf", "/".join("d" * 20) + "/evil.gguf", " evil.gguf", "a./evil.gguf", "~/.\u202e.gguf", "a?b.gguf",
)  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_from_the_network_never_leaves_the_store(hub: HubServer, make_store: MakeStore, name: str) -> None:
    """It is refused before anything is fetched or written."""
    hub.add("org/repo", {"m.gguf": DATA}).listed["m.gguf"] = name
    store = make_store()
    with pytest.raises(UnsafeNameError, match=r"nothing was written|parts; allowed"):
        store.pull("hf:org/repo")
    assert tree(make_store.home.parent) == {}
    assert hub.data_requests == []


@given(name=st.text(min_size=1, max_size=60).map(lambda text: text + ".gguf"))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_is_kept_inside_or_refused(hub: HubServer, make_store: MakeStore, name: str) -> None:
    """Whatever it is, what lies outside the store stays as it was."""
    hub.add("org/repo", {"m.gguf": DATA}).listed["m.gguf"] = name
    store = make_store(retries=0)
    with pytest.raises(LocalLLMError):  # a good name is no such file here, so it is not found
        store.pull("hf:org/repo")
    assert all(path.is_relative_to(make_store.home) for path in make_store.home.parent.rglob("*.*"))


def test_a_commit_from_the_network_is_checked_too(hub: HubServer, make_store: MakeStore) -> None:
    """It becomes a folder's name."""
    hub.add("org/repo", {"m.gguf": DATA}).commit = "../../../evil"
    with pytest.raises(ServerError, match="lacks its commit"):
        make_store().pull("hf:org/repo")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/..%2f..%2fevil.gguf", "http://127.0.0.1:9/a/CON.gguf"])
def test_an_address_with_an_unsafe_name_is_refused(make_store: MakeStore, url: str) -> None:
    """Decoded, as it would be on the disk."""
    with pytest.raises(UnsafeNameError):
        make_store().pull(url)
    assert tree(make_store.home.parent) == {}


def test_a_file_that_is_there_without_a_note_is_checked_and_taken(hub: HubServer, make_store: MakeStore) -> None:
    """Killed before it could note it: a right one is not fetched again, a wrong one is."""
    hub.add("org/repo", {"m.gguf": DATA})
    store = make_store()
    model = store.pull("hf:org/repo")
    for content, requests in ((DATA, 1), (DATA[:-1] + b"x", 2), (DATA[:-1], 3)):
        for path in (*store.home.glob("index.json"), *store.home.rglob("*.gguf.json")):
            path.unlink()
        model.path.write_bytes(content)
        (store.home / "index.json").write_text('{"version": 1, "models": []}')
        assert store.pull("hf:org/repo").path.read_bytes() == DATA
        assert len(hub.data_requests) == requests


def test_what_the_hugging_face_cache_has_is_not_fetched(hub: HubServer, make_store: MakeStore) -> None:
    """The same commit and the same size: it stays there, and is found there."""
    hub.add("org/repo", {"m.gguf": DATA})
    repo = make_store.user / ".cache/huggingface/hub/models--org--repo"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / sha256(DATA)).write_bytes(DATA)
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "m.gguf").symlink_to(f"../../blobs/{sha256(DATA)}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    store = make_store()
    model = store.pull("hf:org/repo")
    assert (model.origin, model.path) == ("huggingface", snapshot / "m.gguf")
    assert hub.data_requests == []
    assert store.find("hf:org/repo").path == model.path
    assert store.verify("hf:org/repo").ok
    with pytest.raises(StoreError, match="belongs to the Hugging Face cache"):
        store.remove("hf:org/repo")
    assert (snapshot / "m.gguf").read_bytes() == DATA


def test_a_store_that_cannot_be_written_is_told(hub: HubServer, tmp_path: Path) -> None:
    """Its folder is a file."""
    hub.add("org/repo", {"m.gguf": DATA})
    (tmp_path / "home").write_text("in the way")
    store = ModelStore(tmp_path / "home", endpoint=hub.url, environment={"HOME": str(tmp_path)})
    with pytest.raises(StoreError, match="home"):
        store.pull("hf:org/repo")


@pytest.mark.parametrize(
    "wrong", [{"endpoint": "hub"}, {"endpoint": "https://user:pass@hub"}, {"token": "a\nb"}, {"stall_s": 0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, str]) -> None:
    """Before they are used, and without showing a secret."""
    with pytest.raises(InvalidOptionError) as caught:
        Network(**wrong)  # type: ignore[arg-type]
    assert "pass" not in str(caught.value).replace("password", "").replace("pass a token", "")


def test_wrong_retries_are_refused() -> None:
    """Numbers from 0 up."""
    with pytest.raises(InvalidOptionError, match="retries must be 0 or more"):
        RetryPolicy(retries=-1)

"""Downloads over https: only from who can be trusted, and nothing secret to where anybody could read it."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from localllm.errors import ConnectionLostError, DownloadError, ServerError
from tests.models.fetching import MakeStore, gguf_bytes
from tests.models.hub_server import Cut, HubServer, Redirect, hub_server

DATA = gguf_bytes(600_000)
NAME = "model-Q4_K_M.gguf"
REF = "hf:org/repo"
TOKEN = "hf_s3cret"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that nobody trusts unless told to."""
    return trustme.CA()


@pytest.fixture
def secure_hub(authority: trustme.CA) -> Iterator[HubServer]:
    """A Hub over https, its storage under another name of the same server; it has one model."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    with hub_server(context) as hub:
        hub.add("org/repo", {NAME: DATA})
        yield hub


@pytest.fixture
def secure_store(tmp_path: Path, secure_hub: HubServer) -> MakeStore:
    """Makes stores that fetch from there."""
    return MakeStore(tmp_path / "home", tmp_path / "user", secure_hub)


@pytest.fixture
def trusted(tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user trusts the authority."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def test_a_certificate_that_is_not_trusted_ends_the_pull_and_says_what_to_do(
    secure_hub: HubServer, secure_store: MakeStore
) -> None:
    """At once, for trying again would not help; nothing was asked for."""
    with pytest.raises(
        ConnectionLostError, match=r"certificate of 127\.0\.0\.1 is not trusted.*SSL_CERT_FILE"
    ) as caught:
        secure_store(token=TOKEN).pull(REF)
    assert isinstance(caught.value, DownloadError)
    assert "tried" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert secure_hub.seen == []


@pytest.mark.usefixtures("trusted")
def test_a_trusted_certificate_lets_a_broken_download_come_whole(
    secure_hub: HubServer, secure_store: MakeStore
) -> None:
    """In whatever pieces TLS delivers it; the token goes to the Hub, and not to its storage."""
    secure_hub.faults.append(Cut(200_000))
    model = secure_store(token=TOKEN).pull(REF)
    assert hashlib.sha256(model.path.read_bytes()).digest() == hashlib.sha256(DATA).digest()
    assert [seen.headers.get("range") for seen in secure_hub.data_requests] == [None, "bytes=200000-"]
    assert all("authorization" not in seen.headers for seen in secure_hub.data_requests)
    assert all(seen.headers["authorization"] == f"Bearer {TOKEN}" for seen in secure_hub.api_requests)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("redirects", [False, True], ids=["the Hub itself", "its storage"])
def test_a_redirect_from_https_to_http_is_refused_and_nothing_is_sent_there(
    secure_hub: HubServer, secure_store: MakeStore, hub: HubServer, redirects: bool
) -> None:
    """Neither the token nor anything else."""
    hub.files["/models/x.gguf"] = DATA
    secure_hub.redirects = redirects
    secure_hub.faults.extend([Redirect(f"{hub.url}/models/x.gguf")] * 3)
    with pytest.raises(ServerError, match="redirects to plain http") as caught:
        secure_store(token=TOKEN).pull(REF)
    assert TOKEN not in str(caught.value)
    assert hub.seen == []

"""Redirects, origins and refusals: values in, values out; and what an import of the store costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from localllm.errors import (
    AccessDeniedError,
    LocalLLMError,
    ModelNotFoundError,
    RateLimitedError,
    ServerError,
)
from localllm.models.http import next_url, origin, refusal
from localllm.models.retry import TryAgain


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://a/b/c", "https://d/e?sig=1", "https://d/e?sig=1"),
        ("https://a/b/c", "/x", "https://a/x"),
        ("https://a/b/c", "x", "https://a/b/x"),
        ("https://a/b/c", "//d/x", "https://d/x"),
        ("http://a/b", "https://d/x", "https://d/x"),
        ("http://a/b", "http://d/x", "http://d/x"),
    ],
)
def test_a_redirect_leads_where_it_says(url: str, location: str, target: str) -> None:
    """Relative ones, too; from http to https."""
    assert next_url(url, location, "x") == target


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://a/x", "redirects to plain http"),
        ("http://127.0.0.1/x", "redirects to plain http"),
        ("", "nowhere"),
        ("ftp://a/x", "nowhere"),
        ("file:///etc/passwd", "nowhere"),
        ("https://u:p@a/x", "nowhere"),
        ("https://[/x", "nowhere"),
        ("https://a:99999/x", "nowhere"),
    ],
)
def test_a_redirect_that_cannot_be_trusted_is_refused(location: str, said: str) -> None:
    """Above all one from https to http, wherever to; what is shown holds no query."""
    with pytest.raises(ServerError, match=said) as caught:
        next_url("https://a/b?sig=s3cret", location, "x")
    assert "s3cret" not in str(caught.value)


def test_an_origin_is_scheme_host_and_port() -> None:
    """With the scheme's own port where none is named."""
    assert origin("HTTPS://Hub.example/x") == origin("https://hub.example:443") == ("https", "hub.example", 443)
    others = ("http://hub.example", "https://hub.example:8443", "https://hub.example.evil", "https://evil/hub.example")
    assert all(origin(other) != origin("https://hub.example") for other in others)


@pytest.mark.parametrize(
    ("status", "headers", "redirected", "kind", "again"),
    [
        (429, {"retry-after": "7"}, False, RateLimitedError, True),
        (408, {}, False, ServerError, True),
        (500, {}, False, ServerError, True),
        (401, {}, False, AccessDeniedError, False),
        (403, {}, False, AccessDeniedError, False),
        (403, {}, True, AccessDeniedError, True),
        (401, {"x-error-code": "RepoNotFound"}, False, ModelNotFoundError, False),
        (403, {"x-error-code": "GatedRepo"}, False, AccessDeniedError, False),
        (404, {}, False, ModelNotFoundError, False),
        (410, {}, False, ModelNotFoundError, False),
        (400, {}, False, ServerError, False),
        (304, {}, False, ServerError, False),
    ],
)
def test_a_refusal_is_taken_for_what_it_is(
    status: int, headers: dict[str, str], redirected: bool, kind: type[LocalLLMError], again: bool
) -> None:
    """What may pass is tried again; an expired address of the storage (403 after a redirect) is one of these."""
    found = refusal(status, headers, "x", token=None, redirected=redirected)
    assert isinstance(found, TryAgain) == again
    error = found.error if isinstance(found, TryAgain) else found
    assert type(error) is kind
    assert str(error).startswith("x: ")


def test_looking_into_the_store_loads_no_network_code() -> None:
    """Neither httpx nor TLS, asyncio, threads or locks: listing and finding models are for programs that start fast."""
    code = (
        "import sys, tempfile\n"
        "from localllm.models.store import ModelStore\n"
        "ModelStore(tempfile.gettempdir() + '/nowhere').resolve('smollm2-135m')\n"
        "print({'httpx', 'ssl', 'asyncio', 'concurrent.futures', 'filelock', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=15)
    assert done.stdout == "set()\n"

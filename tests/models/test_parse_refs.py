"""References taken apart: every form, and what is no such form."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import InvalidOptionError
from localllm.models.refs import (
    AliasRef,
    HubRef,
    LmStudioRef,
    OllamaRef,
    PathRef,
    Reference,
    UrlRef,
    hub_ref_of_url,
    parse_ref,
    without_secrets,
)

ALIASES = ("smollm2-135m", "hf:alias")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("model.gguf", PathRef("model.gguf")),
        ("./smollm2-135m", PathRef("./smollm2-135m")),
        ("C:\\models\\x.gguf", PathRef("C:\\models\\x.gguf")),
        ("smollm2-135m", AliasRef("smollm2-135m")),
        ("hf:org/repo", HubRef(repo="org/repo")),
        ("HF:org/repo-1.5_x", HubRef(repo="org/repo-1.5_x")),
        ("hf:org/repo:Q4_K_M", HubRef(repo="org/repo", quant="Q4_K_M")),
        ("hf:org/repo/a/b.gguf", HubRef(repo="org/repo", file="a/b.gguf")),
        ("hf:org/repo@v1.0", HubRef(repo="org/repo", revision="v1.0")),
        ("hf:org/repo@refs/pr/2", HubRef(repo="org/repo", revision="refs/pr/2")),
        ("hf:org/repo@v1:Q8_0", HubRef(repo="org/repo", revision="v1", quant="Q8_0")),
        ("hf:org/repo:Q8_0@v1", HubRef(repo="org/repo", revision="v1", quant="Q8_0")),
        ("hf:org/repo/x.gguf@v1", HubRef(repo="org/repo", revision="v1", file="x.gguf")),
        ("hf:org/repo@v1/x.gguf", HubRef(repo="org/repo", revision="v1", file="x.gguf")),
        ("https://host/a/x.gguf", UrlRef("https://host/a/x.gguf")),
        ("https://host:8443/a/x.GGUF?sig=1", UrlRef("https://host:8443/a/x.GGUF?sig=1")),
        ("http://127.0.0.1:80/x.gguf", UrlRef("http://127.0.0.1:80/x.gguf")),
        ("http://localhost/x.gguf", UrlRef("http://localhost/x.gguf")),
        ("ollama:llama3.2", OllamaRef(name="llama3.2")),
        ("ollama:llama3.2:1b", OllamaRef(name="llama3.2", tag="1b")),
        ("ollama:me/mine:v1", OllamaRef(name="me/mine", tag="v1")),
        ("ollama:hf.co/org/repo:Q4_K_M", OllamaRef(name="hf.co/org/repo", tag="Q4_K_M")),
        ("lmstudio:pub/repo", LmStudioRef(repo="pub/repo")),
        ("lmstudio:pub/repo:Q4_K_M", LmStudioRef(repo="pub/repo", quant="Q4_K_M")),
        ("lmstudio:pub/repo/x.gguf", LmStudioRef(repo="pub/repo", file="x.gguf")),
        ("lmstudio:llama", LmStudioRef(repo="llama")),
    ],
)
def test_every_form_is_understood(text: str, meant: Reference) -> None:
    """The fields are those of the form."""
    assert parse_ref(text, ALIASES) == meant


def test_a_path_object_is_a_path_whatever_it_looks_like() -> None:
    """Only a str can be anything else."""
    assert parse_ref(Path("hf:org"), ALIASES) == PathRef("hf:org")
    assert parse_ref(Path("smollm2-135m"), ALIASES) == PathRef("smollm2-135m")


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:repo", "hf:org/", "hf:/repo", "hf:org/repo/", "hf:org/repo/readme.md", "hf:org/repo:", "hf:../..",
        "hf:org/..", "hf:org/repo:Q4 K", "hf:org/repo@", "hf:org/repo@../x", "hf:org/repo@a@b", "hf:org/repo/../x.gguf",
        "hf:org/repo//x.gguf", "hf:org/a..b", "hf:-org/repo", "hf:org/repo/con.gguf",
        "https://", "https:///x.gguf", "https://host/", "https://host/x.bin", "http://host/x.gguf", "https://host:x/a.gguf",
        "https://ho st/x.gguf", "https://[::1/x.gguf", "https://user@host/x.gguf", "https://user:secret@host/x.gguf",
        "ollama:", "ollama:..", "ollama:a/b/c/d", "ollama:a:b:c", "ollama:../x", "ollama:a/../b",
        "lmstudio:", "lmstudio:../..", "lmstudio:a b",
    ],
)  # fmt: skip
def test_what_only_begins_like_a_form_is_refused(text: str) -> None:
    """With what was expected; a password is not repeated."""
    with pytest.raises(InvalidOptionError, match=r"expected: |leave them out") as caught:
        parse_ref(text, ALIASES)
    assert "secret" not in str(caught.value)


_part = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,10}", fullmatch=True)
_revision = st.sampled_from(["main", "v1", "refs/pr/7", "0" * 40])
_hub = st.builds(
    lambda org, name, revision, what: HubRef(repo=f"{org}/{name}", revision=revision, **what),
    _part,
    _part,
    _revision,
    st.one_of(
        st.just(dict[str, str]()),
        _part.map(lambda text: {"quant": text}),
        _part.map(lambda text: {"file": f"{text}x.gguf"}),
    ),
)


@given(_hub)
def test_a_hub_reference_reads_as_it_is_written(ref: HubRef) -> None:
    """So that what `list` shows can be given to any command."""
    assert parse_ref(str(ref)) == ref


@given(st.text())
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    """No other exception, whatever it is."""
    for prefix in ("", "hf:", "https://", "ollama:", "lmstudio:"):
        with suppress(InvalidOptionError):
            parse_ref(prefix + text, ALIASES)


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("https://hub/org/repo/resolve/main/x.gguf", HubRef(repo="org/repo", file="x.gguf")),
        ("https://hub/org/repo/resolve/main/x.gguf?download=true", HubRef(repo="org/repo", file="x.gguf")),
        ("https://hub/org/repo/blob/v1/a/x.gguf", HubRef(repo="org/repo", file="a/x.gguf", revision="v1")),
        ("https://hub/org/repo/resolve/main/x.gguf?other=1", None),
        ("https://hub/org/repo/raw/main/x.gguf", None),
        ("http://hub/org/repo/resolve/main/x.gguf", None),
        ("https://other/org/repo/resolve/main/x.gguf", None),
        ("https://hub/org/../resolve/main/x.gguf", None),
    ],
)
def test_the_hub_s_own_addresses_are_known(url: str, meant: HubRef | None) -> None:
    """Those of a file in a repository, at exactly this endpoint."""
    assert hub_ref_of_url(url, "https://hub") == meant


def test_a_mirror_below_a_path_is_a_hub_too() -> None:
    """Its addresses begin with that path."""
    url = "https://host/mirror/org/repo/resolve/main/x.gguf"
    assert hub_ref_of_url(url, "https://host/mirror") == HubRef(repo="org/repo", file="x.gguf")
    assert hub_ref_of_url(url, "https://host") is None


def test_secrets_are_left_out_of_what_is_shown() -> None:
    """User, password, query and fragment."""
    assert without_secrets("https://u:p@host:1/a.gguf?sig=s#f") == "https://host:1/a.gguf?…"

"""What a user calls a model, taken apart: pure, nothing is looked up.

::

    ./model.gguf                      a path
    smollm2-135m                      an alias of the catalogue
    hf:org/repo                       a repository of the Hub; its most usual quantization
    hf:org/repo:Q4_K_M                ... this quantization
    hf:org/repo/folder/file.gguf      ... this file
    hf:org/repo@revision:Q4_K_M       ... of a branch, tag or commit; `@revision` may also come last
    https://host/path/file.gguf       any server
    ollama:name:tag                   what Ollama has downloaded
    lmstudio:publisher/repo:Q4_K_M    what LM Studio has downloaded
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

from attrs import frozen

from localllm.errors import InvalidOptionError, UnsafeNameError
from localllm.models.names import safe_parts

DEFAULT_REVISION = "main"

FORMS = (
    "the path of a .gguf file, an alias, hf:org/repo, hf:org/repo:Q4_K_M, hf:org/repo/file.gguf, an https:// URL, "
    "ollama:name:tag or lmstudio:publisher/repo"
)
"""What a reference may be, for messages."""

_REPO_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"(?P<repo>{_REPO_PART}/{_REPO_PART})(?::(?P<quant>[A-Za-z0-9_.-]+)|/(?P<file>.+))?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_OLLAMA_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(:[0-9]{1,5})?")


@frozen
class PathRef:
    """A file on this machine.

    Args:
        text: The path as it was given.
    """

    text: str


@frozen
class AliasRef:
    """A model of the catalogue.

    Args:
        alias: Its short name.
    """

    alias: str


@frozen(kw_only=True)
class HubRef:
    """A model in a repository of the Hugging Face Hub.

    Args:
        repo: "org/name".
        revision: A branch, a tag or a commit.
        quant: The quantization asked for, such as "Q4_K_M"; None with `file`, or for the most usual one.
        file: The file asked for, with "/" between folders; None for whatever `quant` leads to.
    """

    repo: str
    revision: str = DEFAULT_REVISION
    quant: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        what = f":{self.quant}" if self.quant else f"/{self.file}" if self.file else ""
        return f"hf:{self.repo}{what}" + ("" if self.revision == DEFAULT_REVISION else f"@{self.revision}")


@frozen
class UrlRef:
    """A file on a web server.

    Args:
        url: Its address.
    """

    url: str

    def __str__(self) -> str:
        return without_secrets(self.url)


@frozen(kw_only=True)
class OllamaRef:
    """A model that Ollama has downloaded.

    Args:
        name: Its name, with the host and the namespace if they were given.
        tag: Its tag.
    """

    name: str
    tag: str = "latest"

    def __str__(self) -> str:
        return f"ollama:{self.name}:{self.tag}"


@frozen(kw_only=True)
class LmStudioRef:
    """A model that LM Studio has downloaded.

    Args:
        repo: "publisher/repo", or a part of the file's name.
        quant: The quantization asked for, or None.
        file: The file asked for, or None.
    """

    repo: str
    quant: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return f"lmstudio:{self.repo}" + (f":{self.quant}" if self.quant else f"/{self.file}" if self.file else "")


Reference: TypeAlias = PathRef | AliasRef | HubRef | UrlRef | OllamaRef | LmStudioRef


def parse_ref(ref: str | os.PathLike[str], aliases: Collection[str] = ()) -> Reference:
    """Take a reference apart.

    An alias wins over a file of the same name; "./name" and a Path mean the file.

    Args:
        ref: What the user gave.
        aliases: The short names of the catalogue.

    Raises:
        InvalidOptionError: It is of a wrong type, empty, or no such reference as it begins like.
    """
    text = os.fspath(ref) if isinstance(ref, os.PathLike) else ref
    if not isinstance(text, str):
        raise InvalidOptionError(f"a model reference must be a str or a path, not {type(ref).__name__}: {ref!r:.80}")
    if not text.strip():
        raise InvalidOptionError(f"a model reference must not be empty: {text!r:.80}; give {FORMS}")
    if not isinstance(ref, str):
        return PathRef(text)
    if ref in aliases:
        return AliasRef(ref)
    scheme, colon, rest = ref.partition(":")
    match scheme.lower() if colon else "":
        case "hf":
            return _hub(ref, rest)
        case "http" | "https" if rest.startswith("//"):
            return _url(ref)
        case "ollama":
            return _ollama(ref, rest)
        case "lmstudio":
            return _lm_studio(ref, rest)
        case _:
            return PathRef(ref)


def hub_ref_of_url(url: str, endpoint: str) -> HubRef | None:
    """Return what a file of the Hub at `endpoint` is as a reference, so that its checksum can be asked for.

    Args:
        url: An address.
        endpoint: The Hub's.

    Returns:
        The reference; None if this is no address of a repository's file there.
    """
    ours, theirs = urlsplit(endpoint), urlsplit(url)
    prefix = ours.path.rstrip("/") + "/"
    if (ours.scheme, ours.netloc) != (theirs.scheme, theirs.netloc) or not theirs.path.startswith(prefix):
        return None
    if theirs.query not in ("", "download=true"):
        return None
    match theirs.path[len(prefix) :].rstrip("/").split("/"):
        case [org, name, "resolve" | "blob", revision, *folders, file]:
            text = f"hf:{org}/{name}/{'/'.join([*folders, file])}@{revision}"
        case _:
            return None
    try:
        found = parse_ref(text)
    except InvalidOptionError:
        return None
    return found if isinstance(found, HubRef) else None


def without_secrets(url: str) -> str:
    """Return `url` without what may hold secrets: user, password, query and fragment."""
    parts = urlsplit(url)
    query = "?…" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{query}"


def is_loopback(host: str | None) -> bool:
    """Say whether `host` is this machine, to which plain HTTP is safe."""
    if host is None or host.lower() == "localhost":
        return host is not None
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _hub(ref: str, rest: str) -> HubRef:
    """Take `hf:…` apart; the revision may stand behind the repository or at the end."""
    left, at, right = rest.partition("@")
    revision: str | None = None
    if at:
        colon, slash = right.find(":"), right.find("/")
        if colon >= 0:
            revision, left = right[:colon], left + right[colon:]
        elif slash >= 0 and right.lower().endswith(".gguf"):
            revision, left = right[:slash], left + right[slash:]
        else:
            revision = right
    match = _HUB.fullmatch(left)
    if match is None or ".." in match["repo"]:
        raise _malformed(ref, "hf:org/repo, hf:org/repo:Q4_K_M or hf:org/repo/file.gguf, each with @revision")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise _malformed(ref, "a branch, a tag or a commit after the '@'")
    _check_file(ref, match["file"])
    return HubRef(repo=match["repo"], revision=revision or DEFAULT_REVISION, quant=match["quant"], file=match["file"])


def _url(ref: str) -> UrlRef:
    try:
        parts = urlsplit(ref)
        host = parts.hostname
        port = parts.port  # noqa: F841  # reading it checks it
    except ValueError as exc:
        raise _malformed(without_query(ref), f"an address with a host: {exc}") from exc
    shown = without_query(ref)
    if not host or not ref.isprintable() or " " in ref:
        raise _malformed(shown, "an address such as https://host/path/model.gguf")
    if parts.username is not None or parts.password is not None:
        raise InvalidOptionError(
            f"the address {without_secrets(ref)} comes with a user name or password, which would end up in logs; "
            "leave them out, and pass a token with HF_TOKEN if the server is the Hub"
        )
    if parts.scheme.lower() != "https" and not is_loopback(host):
        raise _malformed(
            shown, "an https:// URL; plain http is for this machine only, as anybody on the way could change the model"
        )
    if not parts.path.lower().endswith(".gguf"):
        raise _malformed(shown, "an address that ends with .gguf (or hf:org/repo for a repository of the Hub)")
    return UrlRef(ref)


def without_query(url: str) -> str:
    """Return `url` up to its query, for messages about one that may not even parse."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0].partition("#")[0])


def _ollama(ref: str, rest: str) -> OllamaRef:
    path, slash, last = rest.rpartition("/")
    name, colon, tag = last.partition(":")
    parts = [*path.split("/"), name] if slash else [name]
    good = len(parts) <= 3 and all(_OLLAMA_PART.fullmatch(part) and ".." not in part for part in parts)
    if not good or (colon and (not _OLLAMA_PART.fullmatch(tag) or ":" in tag or ".." in tag)):
        raise _malformed(ref, "ollama:name:tag, as `ollama list` shows it")
    return OllamaRef(name="/".join(parts), tag=tag or "latest")


def _lm_studio(ref: str, rest: str) -> LmStudioRef:
    match = _HUB.fullmatch(rest)
    if match is not None and ".." not in match["repo"]:
        _check_file(ref, match["file"])
        return LmStudioRef(repo=match["repo"], quant=match["quant"], file=match["file"])
    if re.fullmatch(rf"{_REPO_PART}", rest):
        return LmStudioRef(repo=rest)
    raise _malformed(ref, "lmstudio:publisher/repo, lmstudio:publisher/repo:Q4_K_M, or a part of the file's name")


def _check_file(ref: str, file: str | None) -> None:
    if file is None:
        return
    if not file.lower().endswith(".gguf"):
        raise _malformed(ref, "a file that ends with .gguf")
    try:
        safe_parts(file)
    except UnsafeNameError as exc:
        raise _malformed(ref, f"a file in the repository: {exc}") from exc


def _malformed(ref: str, expected: str) -> InvalidOptionError:
    return InvalidOptionError(f"{ref!r:.200} is no model reference; expected: {expected}")

"""The Hugging Face Hub's addresses and answers: pure, nothing is fetched here.

The routes: `/api/models/{repo}/revision/{revision}?blobs=true` tells the commit and the files with their sizes and
checksums, `/{repo}/resolve/{commit}/{file}` redirects to a file's data.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote

from attrs import frozen

from localllm._json import JsonValue
from localllm.errors import ServerError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of an answer about a repository: a guess, several times what the largest ones take."""

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@frozen(kw_only=True)
class HubFile:
    """A file of a repository, as the Hub describes it.

    Args:
        name: Its path in the repository: a name from the network, not to be trusted.
        size_bytes: Its size, if the Hub tells.
        sha256: Its checksum in hexadecimal digits, if the Hub tells; it does for whatever is large.
    """

    name: str
    size_bytes: int | None = None
    sha256: str | None = None


@frozen(kw_only=True)
class HubListing:
    """A repository at one commit.

    Args:
        commit: The commit that the revision means now.
        files: All files.
    """

    commit: str
    files: tuple[HubFile, ...]

    def file(self, name: str) -> HubFile:
        """Return the file called `name`, which is there."""
        return next(file for file in self.files if file.name == name)


def listing_url(endpoint: str, repo: str, revision: str) -> str:
    """Return the address of a repository's description."""
    return f"{endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"


def file_url(endpoint: str, repo: str, commit: str, name: str) -> str:
    """Return the address of a file's data."""
    return f"{endpoint}/{repo}/resolve/{quote(commit, safe='')}/{quote(name)}"


def parse_listing(data: bytes, repo: str) -> HubListing:
    """Read a repository's description.

    Args:
        data: The answer's body.
        repo: "org/name", for messages.

    Raises:
        ServerError: It is no such description.
    """
    try:
        answer: JsonValue = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ServerError(f"the Hub's answer about {repo} is no JSON: {data[:60]!r}") from exc
    match answer:
        case {"sha": str(commit), "siblings": [*siblings]} if _COMMIT.fullmatch(commit):
            return HubListing(commit=commit, files=tuple(_file(sibling, repo) for sibling in siblings))
        case _:
            raise ServerError(f"the Hub's answer about {repo} lacks its commit or files: {data[:120]!r}")


def _file(sibling: JsonValue, repo: str) -> HubFile:
    match sibling:
        case {"rfilename": str(name), "lfs": {"sha256": str(sha256), "size": int(size)}}:
            known = sha256 if _SHA256.fullmatch(sha256) else None
            return HubFile(name=name, size_bytes=size if size >= 0 else None, sha256=known)
        case {"rfilename": str(name), "size": int(size)}:
            return HubFile(name=name, size_bytes=size if size >= 0 else None)
        case {"rfilename": str(name)}:
            return HubFile(name=name)
        case _:
            raise ServerError(f"the Hub's answer about {repo} has a file without a name: {sibling!r:.120}")

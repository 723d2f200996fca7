"""Where things are in the store's folder.

::

    models.toml                                  the user's own aliases
    models/hf/ORG/REPO/COMMIT/FILE.gguf          models of the Hub, and beside each FILE.gguf.json: what is known of it
    models/url/HOST/HASH/FILE.gguf               models of other servers; HASH is of the address
    partial/NAME.HASH.part                       downloads that are not whole yet
    index.json, index.lock                       what there is, to be listed quickly; made again if lost
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from attrs import frozen

from localllm.errors import InvalidOptionError
from localllm.models.names import safe_name, safe_parts
from localllm.models.quants import part_names
from localllm.models.refs import HubRef, UrlRef

NOTE_ENDING = ".json"


@frozen
class Layout:
    """The store's folder.

    Args:
        home: The folder, absolute.
    """

    home: Path

    @property
    def catalogue(self) -> Path:
        """The user's own aliases."""
        return self.home / "models.toml"

    @property
    def models(self) -> Path:
        """Whole models."""
        return self.home / "models"

    @property
    def partial(self) -> Path:
        """Downloads that are not whole yet."""
        return self.home / "partial"

    @property
    def index(self) -> Path:
        """What there is."""
        return self.home / "index.json"

    @property
    def index_lock(self) -> Path:
        """Held while the index is changed."""
        return self.home / "index.lock"

    def part(self, target: Path) -> Path:
        """Return where the parts of `target` are collected; the same for every process."""
        name = target.relative_to(self.models).as_posix()
        return self.partial / f"{target.name[:100]}.{_digest(name)}.part"


def home_folder(option: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the store's folder: an option, `LOCALLLM_HOME`, or the platform's folder for an application's data.

    Raises:
        InvalidOptionError: There is no home directory to put it in.
    """
    from platformdirs import user_data_path

    given = str(option) if option is not None else environment.get("LOCALLLM_HOME", "")
    try:
        if given:
            return Path(given).expanduser().absolute()
        return user_data_path("localllm", appauthor=False).absolute()
    except RuntimeError as exc:
        raise InvalidOptionError(f"no folder for models: {exc}; set LOCALLLM_HOME to one") from exc


def hub_folder(repo: str, commit: str) -> PurePosixPath:
    """Return where a repository's files of one commit are, below `models`.

    Raises:
        UnsafeNameError: A name is not safe to write to.
    """
    return PurePosixPath("hf", *safe_parts(repo), safe_name(commit))


def hub_ref_of_name(name: PurePosixPath) -> HubRef | None:
    """Return what the file at `name`, below `models`, is of the Hub; None if it is not."""
    match name.parts:
        case ["hf", org, repo, commit, *file] if file:
            return HubRef(repo=f"{org}/{repo}", revision=commit, file="/".join(file))
        case _:
            return None


def part_urls(ref: UrlRef) -> tuple[str, ...]:
    """Return the addresses of all files of the model that a file's address means, the first one first."""
    parts = urlsplit(ref.url)
    folder, _, file = parts.path.rpartition("/")
    return tuple(urlunsplit(parts._replace(path=f"{folder}/{name}")) for name in part_names(file))


def url_name(ref: UrlRef) -> PurePosixPath:
    """Return where the first file of the model at an address is, below `models`.

    Raises:
        UnsafeNameError: Its name is not safe to write to.
    """
    first = part_urls(ref)[0]
    parts = urlsplit(first)
    host = (parts.hostname or "").replace(":", "_") + (f"_{parts.port}" if parts.port else "")
    file = unquote(parts.path.rpartition("/")[2])
    return PurePosixPath("url", safe_name(host), _digest(first), safe_name(file))


def note_of(path: Path) -> Path:
    """Return where it is noted what is known of the model whose first file is `path`."""
    return path.with_name(path.name + NOTE_ENDING)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]

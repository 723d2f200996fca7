"""Fetching a model: from a reference to whole files under their names, and a note of what they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen

from localllm.errors import ChecksumError, InvalidModelFileError, InvalidOptionError
from localllm.models.cancel import Cancellation
from localllm.models.download import Download
from localllm.models.gguf import read_header
from localllm.models.hashing import hash_file
from localllm.models.http import Http
from localllm.models.hub import MAX_ANSWER_BYTES, HubListing, file_url, listing_url, parse_listing
from localllm.models.index import Index
from localllm.models.layout import Layout, hub_folder, part_urls, url_name
from localllm.models.locks import locked, store_errors, sync_folder
from localllm.models.names import safe_parts
from localllm.models.network import Network
from localllm.models.others import OtherStores
from localllm.models.progress import Meter
from localllm.models.quants import choose, part_names
from localllm.models.refs import HubRef, UrlRef
from localllm.models.resume import Wanted
from localllm.models.retry import retrying
from localllm.models.room import check_room
from localllm.models.stored import StoredFile, StoredModel

_LOOK_AGAIN_S = 0.2  # how often we look whether another process has finished the same file


@frozen
class _Target:
    """A file to fetch: what it should be, and where it goes."""

    wanted: Wanted
    path: Path


class Pull:
    """One pull.

    Args:
        layout: Where things are.
        index: Where the model is noted.
        others: Where it may be already.
        network: How to reach the network.
        http: The connections.
        meter: Told how far it is.
        cancel: Ends it.
        free_bytes: Tells the room in a folder.
    """

    def __init__(
        self,
        *,
        layout: Layout,
        index: Index,
        others: OtherStores,
        network: Network,
        http: Http,
        meter: Meter,
        cancel: Cancellation,
        free_bytes: Callable[[Path], int],
    ) -> None:
        self._layout = layout
        self._index = index
        self._others = others
        self._network = network
        self._http = http
        self._meter = meter
        self._cancel = cancel
        self._free_bytes = free_bytes

    def from_hub(self, ref: HubRef, sha256: str | None) -> StoredModel:
        """Fetch a model of the Hub, or find it already there.

        Args:
            ref: The model.
            sha256: The checksum that the caller expects, of a model in one file.
        """
        listing = self._listing(ref)
        where = f"hf:{ref.repo}" + ("" if ref.revision == "main" else f"@{ref.revision}")
        names = choose([file.name for file in listing.files], where, quant=ref.quant, file=ref.file)
        _check_count(names, sha256)
        folder = self._layout.models / hub_folder(ref.repo, listing.commit)
        targets = []
        for name in names:
            file = listing.file(name)
            if sha256 is not None and file.sha256 not in (None, sha256):
                raise ChecksumError(f"{name} has the SHA-256 {file.sha256} on the Hub, expected {sha256}; not fetched")
            wanted = Wanted(
                url=file_url(self._network.endpoint, ref.repo, listing.commit, name),
                name=name,
                size_bytes=file.size_bytes,
                sha256=file.sha256 or sha256,
            )
            targets.append(_Target(wanted, folder.joinpath(*safe_parts(name))))
        exact = HubRef(repo=ref.repo, revision=listing.commit, file=names[0])
        cached = self._others.hugging_face(exact)
        if cached is not None and _same(cached, targets):
            return cached
        with store_errors(f"cannot store {exact}"):
            return self._fetch(str(exact), targets, revision=ref.revision, commit=listing.commit)

    def from_url(self, ref: UrlRef, sha256: str | None) -> StoredModel:
        """Fetch a model from any server, or find it already there.

        Args:
            ref: Its address; of a model in parts that of any part.
            sha256: The checksum that the caller expects, of a model in one file.
        """
        urls = part_urls(ref)
        _check_count(urls, sha256)
        first = self._layout.models / url_name(ref)
        names = part_names(first.name)
        targets = [
            _Target(Wanted(url=url, name=name, sha256=sha256), first.with_name(name))
            for url, name in zip(urls, names, strict=True)
        ]
        model = UrlRef(urls[0])
        with store_errors(f"cannot store {model}"):
            return self._fetch(str(model), targets)

    def _listing(self, ref: HubRef) -> HubListing:
        """Ask the Hub what the repository holds."""
        url = listing_url(self._network.endpoint, ref.repo, ref.revision)
        what = f"hf:{ref.repo}@{ref.revision}"

        def ask() -> bytes:
            self._meter.enter("resolving")
            with self._http.get(url, {"Accept": "application/json"}, what) as answer:
                return answer.read(MAX_ANSWER_BYTES)

        data = retrying(
            ask,
            policy=self._network.retry,
            timing=self._network.timing,
            cancel=self._cancel,
            on_wait=lambda error, wait_s: self._meter.enter("retrying", f"{error}; again in {wait_s:.1f} s"),
        )
        return parse_listing(data, ref.repo)

    def _fetch(self, ref: str, targets: Sequence[_Target], *, revision: str = "", commit: str = "") -> StoredModel:
        """Fetch what is not there yet, and note the model."""
        known = self._known(targets)
        if known is not None:
            return known
        sizes = [target.wanted.size_bytes for target in targets]
        total = sum(size for size in sizes if size is not None) if None not in sizes else None
        self._layout.partial.mkdir(parents=True, exist_ok=True)
        missing = [size or 0 for size, target in zip(sizes, targets, strict=True) if not target.path.exists()]
        have = sum(_size(self._layout.part(target.path)) for target in targets)
        check_room(self._layout.partial, max(0, sum(missing) - have), ref, self._free_bytes)
        files: list[StoredFile] = []
        for target in targets:
            before = sum(file.size_bytes for file in files)
            self._meter.start_file(target.wanted.name, before, total)
            file = self._fetch_file(target)
            files.append(file)
        model = StoredModel(
            ref=ref,
            files=tuple(files),
            origin="store",
            revision=revision,
            commit=commit,
            pulled_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        self._index.add(model)
        return model

    def _known(self, targets: Sequence[_Target]) -> StoredModel | None:
        """Return the model if it is noted as whole, and its files still look like it."""
        known = next((model for model in self._index.models() if model.path == targets[0].path), None)
        return known if known is not None and _same(known, targets) else None

    def _fetch_file(self, target: _Target) -> StoredFile:
        """Fetch one file, or wait for whoever is fetching it already."""
        part = self._layout.part(target.path)

        def wait() -> None:
            self._meter.enter("waiting", "another process is downloading it")
            self._meter.at(_size(part))
            self._network.timing.wait(self._cancel, _LOOK_AGAIN_S)

        with locked(part.with_name(part.name + ".lock"), wait):
            found = self._already(target)
            if found is not None:
                return found
            download = Download(
                target.wanted,
                part,
                http=self._http,
                network=self._network,
                meter=self._meter,
                cancel=self._cancel,
                free_bytes=self._free_bytes,
            )
            digest = download.run()
            size = _size(part)
            try:
                read_header(part)
            except InvalidModelFileError as exc:
                download.discard()
                raise InvalidModelFileError(f"what was fetched as {target.wanted.name} is no model: {exc}") from exc
            _publish(part, target.path)
            download.discard()
            return StoredFile(path=target.path, size_bytes=size, sha256=digest)

    def _already(self, target: _Target) -> StoredFile | None:
        """Return the file if it lies under its name and is the right one, though nobody has noted it.

        Another process may just have finished it, or one was killed before it could note it.
        """
        wanted = target.wanted
        if not target.path.is_file():
            return None
        size = _size(target.path)
        if wanted.size_bytes in (None, size):
            self._meter.enter("checking")
            digest = hash_file(target.path, self._on_hashed)
            if wanted.sha256 in (None, digest):
                return StoredFile(path=target.path, size_bytes=size, sha256=digest)
        with suppress(FileNotFoundError):
            target.path.unlink()
        return None

    def _on_hashed(self, done_bytes: int) -> None:
        self._cancel.check()
        self._meter.at(done_bytes)


def _publish(part: Path, path: Path) -> None:
    """Let a whole file appear under its name, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)
    sync_folder(path.parent)


def _check_count(names: Sequence[str], sha256: str | None) -> None:
    if sha256 is not None and len(names) > 1:
        raise InvalidOptionError(f"sha256 is of one file, and this model has {len(names)}; leave it out")


def _same(model: StoredModel, targets: Sequence[_Target]) -> bool:
    """Say whether the files of `model` are those that are wanted, by size and checksum as they are known."""
    if len(model.files) != len(targets):
        return False
    for file, target in zip(model.files, targets, strict=True):
        wanted = target.wanted
        if wanted.sha256 is not None and file.sha256 not in (None, wanted.sha256):
            return False
        if _size(file.path) != file.size_bytes or wanted.size_bytes not in (None, file.size_bytes):
            return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""The store of models: finds them wherever they are, fetches, lists, verifies and removes them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import evolve

from localllm.errors import (
    DownloadCancelledError,
    InvalidOptionError,
    ModelNotFoundError,
    OfflineError,
    StoreError,
)
from localllm.models.cancel import Cancellation
from localllm.models.catalogue import CatalogueEntry, PackageFile, read_catalogue
from localllm.models.describe import model_info
from localllm.models.finder import Finder, source_of
from localllm.models.index import Index
from localllm.models.info import ModelInfo
from localllm.models.layout import Layout, home_folder
from localllm.models.locks import locked
from localllm.models.network import Network
from localllm.models.others import OtherStores
from localllm.models.progress import Meter, PullCallback
from localllm.models.refs import AliasRef, HubRef, Reference, UrlRef, hub_ref_of_url, parse_ref
from localllm.models.room import free_bytes_of
from localllm.models.stored import Origin, StoredModel, Verification
from localllm.models.verifying import verify_model

ModelRef = str | os.PathLike[str]
"""What names a model: see `localllm.models.refs`."""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_INDEX_WAIT_S = 0.01
_OWNERS: Mapping[Origin, str] = {
    "package": "belongs to a Python package; `pip uninstall` removes it",
    "path": "is a file of yours that the store has nothing to do with; delete it yourself",
    "huggingface": "belongs to the Hugging Face cache; `hf cache` removes it",
    "ollama": "belongs to Ollama; `ollama rm` removes it",
    "lmstudio": "belongs to LM Studio, which removes it",
}


class ModelStore:
    """A folder of models, and the way to others. Safe to use from several threads and processes.

    Args:
        home: The folder; None takes `LOCALLLM_HOME`, or else the platform's folder for an application's data. It is
            made by the first pull.
        network: How to reach the network; None takes `Network.from_environment()`.
        endpoint: The Hub or a mirror of it, instead of the network's own; else `HF_ENDPOINT` if that is set.
        token: Opens private and gated models, instead of the network's own; else `HF_TOKEN` if that is set.
        offline: Refuse to use the network, or not, instead of the network's own; else `HF_HUB_OFFLINE`.
        environment: Where all these variables are looked up.
        free_bytes: Tells the room in a folder; for tests.

    Raises:
        InvalidOptionError: An argument or a variable cannot be used.
    """

    def __init__(
        self,
        home: ModelRef | None = None,
        *,
        network: Network | None = None,
        endpoint: str | None = None,
        token: str | None = None,
        offline: bool | None = None,
        environment: Mapping[str, str] = os.environ,
        free_bytes: Callable[[Path], int] = free_bytes_of,
    ) -> None:
        network = network if network is not None else Network.from_environment(environment)
        if endpoint is not None:
            network = evolve(network, endpoint=endpoint)
        if token is not None:
            network = evolve(network, token=token)
        if offline is not None:
            network = evolve(network, offline=offline)
        self._network = network
        self._layout = Layout(home_folder(Path(home) if home is not None else None, environment))
        self._index = Index(self._layout, lambda: time.sleep(_INDEX_WAIT_S))
        self._others = OtherStores(_user_home(environment), environment)
        self._finder = Finder(self._layout, self._index, self._others, network.endpoint)
        self._free_bytes = free_bytes

    @property
    def home(self) -> Path:
        """The store's folder, absolute."""
        return self._layout.home

    @property
    def network(self) -> Network:
        """How it reaches the network."""
        return self._network

    def catalogue(self) -> Mapping[str, CatalogueEntry]:
        """Return the models that have a short name: the built-in ones and those of `models.toml` in the folder.

        Raises:
            InvalidOptionError: Something in that file is wrong; the message says what and where.
        """
        return read_catalogue(self._layout.catalogue)

    def find(self, ref: ModelRef) -> StoredModel:
        """Return the model on this machine that `ref` leads to; the network is not asked.

        Args:
            ref: A path, an alias, `hf:…`, an address, `ollama:…` or `lmstudio:…`.

        Raises:
            InvalidOptionError: It is no such reference.
            ModelNotFoundError: It leads to nothing; the message says what was tried, what is near, and how to get it.
            InvalidModelFileError: It is a directory.
            StoreError: The store cannot be read.
        """
        catalogue = self.catalogue()
        return self._finder.find(parse_ref(ref, catalogue), catalogue)

    def resolve(self, ref: ModelRef) -> Path:
        """Return the (first) file of the model on this machine that `ref` leads to. Raises what `find` does."""
        return self.find(ref).path

    def fetchable(self, ref: ModelRef) -> bool:
        """Say whether `pull` would ask the network for `ref`.

        Raises:
            InvalidOptionError: It is no reference.
        """
        return isinstance(self._source(ref)[0], HubRef | UrlRef)

    def inspect(self, ref: ModelRef) -> ModelInfo:
        """Return what the header of a model on this machine says. Raises what `find` and the header's reader do.

        Raises:
            ModelNotFoundError: It is not here.
            InvalidModelFileError: It is no GGUF file, or a truncated or damaged one.
        """
        return model_info(self.resolve(ref))

    def list(self, *, others: bool = False) -> tuple[StoredModel, ...]:
        """Return the models that are here: the store's, and those that installed packages bring.

        Args:
            others: Those of the Hugging Face cache, of Ollama and of LM Studio, too.

        Raises:
            StoreError: The store cannot be read.
        """
        own = (*self._index.models(), *self._finder.packaged(self.catalogue()))
        return (*own, *self._others.models()) if others else own

    def pull(
        self,
        ref: ModelRef,
        *,
        sha256: str | None = None,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> StoredModel:
        """Fetch a model, or find it already here, and wait until it is whole.

        What was begun before, by this process or another one, is gone on with. For `hf:` the Hub is asked what the
        revision means now, so that a newer version is fetched; offline, what is here will do. Several pulls may run at
        once, each on its own thread; two of the same file, in whatever processes, share one download.

        Args:
            ref: A path, an alias, `hf:…`, an address, `ollama:…` or `lmstudio:…`; what is on this machine is only
                looked up.
            sha256: The file's checksum in hexadecimal digits, if the caller knows it better than the Hub.
            on_progress: Told how far it is, on this thread, at most ten times a second and at each new phase.
                Returning False cancels; what it raises cancels, too, and is raised here.
            cancel: Cancels it from another thread.

        Returns:
            The model.

        Raises:
            DownloadError: It cannot be fetched; the class says why. What has come is kept for the next try.
            ModelNotFoundError: There is no such model, here or there.
            InvalidModelFileError: What came is no GGUF model.
            InvalidOptionError: An argument cannot be used.
            StoreError: The store cannot be written.
        """
        source, expected = self._source(ref)
        given = _checksum(sha256) or expected
        if not isinstance(source, HubRef | UrlRef):
            return self.find(ref)
        if self._network.offline:
            return self._find_offline(ref)
        with self._metered(ref, on_progress, cancel) as (meter, own):
            return self._pull(source, given, meter, own)

    def verify(
        self, ref: ModelRef, *, on_progress: PullCallback | None = None, cancel: Cancellation | None = None
    ) -> Verification:
        """Read all of a model's files and compare them with their checksums.

        Args:
            ref: The model.
            on_progress: Told how far it is; returning False cancels.
            cancel: Cancels it from another thread.

        Returns:
            What was found; `.ok` says whether nothing is wrong.

        Raises:
            DownloadCancelledError: It was cancelled.
            ModelNotFoundError: It is not here.
        """
        model = self.find(ref)
        with self._metered(ref, on_progress, cancel) as (meter, own):
            return verify_model(model, meter, own)

    def remove(self, ref: ModelRef) -> StoredModel:
        """Delete a model of the store.

        Args:
            ref: The model.

        Returns:
            What was deleted.

        Raises:
            StoreError: It belongs to another program or to the user, is being fetched, or cannot be deleted.
            ModelNotFoundError: It is not here.
        """
        model = self.find(ref)
        if model.origin != "store":
            raise StoreError(f"{model.path} {_OWNERS[model.origin]}; nothing was deleted")
        with ExitStack() as stack:
            for file in model.files:
                part = self._layout.part(file.path)
                stack.enter_context(locked(part.with_name(part.name + ".lock"), _busy(model)))
            try:
                for file in reversed(model.files):  # the first file last: while it is there, the model can be named
                    file.path.unlink(missing_ok=True)
                self._index.discard(model)
            except PermissionError as exc:
                raise StoreError(f"cannot delete {exc.filename}: {exc.strerror}; is the model loaded?") from exc
            except OSError as exc:
                raise StoreError(f"cannot delete {model.ref}: {exc}") from exc
        self._tidy(model.path.parent)
        return model

    def clear_partial(self) -> int:
        """Delete what is left of downloads that were not finished and that nobody is going on with now.

        Returns:
            The bytes that this freed.

        Raises:
            StoreError: They cannot be deleted.
        """
        freed = 0
        for part in sorted(self._layout.partial.glob("*.part")):
            with suppress(_InUseError), locked(part.with_name(part.name + ".lock"), _in_use):
                try:
                    freed += part.stat().st_size
                    part.unlink()
                    part.with_name(part.name + ".json").unlink(missing_ok=True)
                except OSError as exc:
                    raise StoreError(f"cannot delete {part}: {exc}") from exc
        return freed

    def _find_offline(self, ref: ModelRef) -> StoredModel:
        try:
            return self.find(ref)
        except ModelNotFoundError as exc:
            raise OfflineError(
                f"{exc}; and offline mode is on (an option, HF_HUB_OFFLINE or LOCALLLM_OFFLINE), so it was not tried"
            ) from exc

    @contextmanager
    def _metered(
        self, ref: ModelRef, on_progress: PullCallback | None, cancel: Cancellation | None
    ) -> Iterator[tuple[Meter, Cancellation]]:
        """Yield a meter for one piece of work and what cancels it alone; raise what the callback raised."""
        own = Cancellation()  # the caller's may belong to several
        meter = Meter(os.fspath(ref), now=self._network.timing.now, callback=on_progress, cancel=own)
        with ExitStack() as stack:
            if cancel is not None:
                stack.enter_context(cancel.stopping(own.cancel))
            try:
                yield meter, own
            except DownloadCancelledError:
                if meter.failure is None:
                    raise
        if meter.failure is not None:
            raise meter.failure  # the caller's own exception, which is why the work was cancelled

    def _source(self, ref: ModelRef) -> tuple[Reference, str | None]:
        """Return what `ref` means when it is to be fetched, and the checksum that the catalogue has for it."""
        catalogue = self.catalogue()
        parsed, sha256 = parse_ref(ref, catalogue), None
        if isinstance(parsed, AliasRef):
            entry = catalogue[parsed.alias]
            if isinstance(entry.source, PackageFile):
                return parsed, None
            parsed, sha256 = source_of(entry), entry.sha256
        hub = hub_ref_of_url(parsed.url, self._network.endpoint) if isinstance(parsed, UrlRef) else None
        return hub or parsed, sha256

    def _pull(self, source: HubRef | UrlRef, sha256: str | None, meter: Meter, cancel: Cancellation) -> StoredModel:
        from localllm.models.http import Http  # not at the top: whoever pulls nothing needs no HTTP
        from localllm.models.pull import Pull

        meter.enter("resolving")
        with Http(self._network, cancel) as http:
            pull = Pull(
                layout=self._layout,
                index=self._index,
                others=self._others,
                network=self._network,
                http=http,
                meter=meter,
                cancel=cancel,
                free_bytes=self._free_bytes,
            )
            model = pull.from_hub(source, sha256) if isinstance(source, HubRef) else pull.from_url(source, sha256)
        meter.start_file("", model.size_bytes, model.size_bytes)
        meter.enter("done")
        return model

    def _tidy(self, folder: Path) -> None:
        """Delete the folders that a removed model leaves empty."""
        while folder != self._layout.models and self._layout.models in folder.parents:
            try:
                folder.rmdir()
            except OSError:  # something is in it
                return
            folder = folder.parent


class _InUseError(Exception):
    """Somebody holds the lock."""


def _in_use() -> None:
    raise _InUseError


def _busy(model: StoredModel) -> Callable[[], None]:
    def refuse() -> None:
        raise StoreError(f"{model.ref} is being fetched or removed by somebody else; nothing was deleted")

    return refuse


def _checksum(value: str | None) -> str | None:
    given: object = value  # what users pass may be anything
    if given is None:
        return None
    if not isinstance(given, str) or not _SHA256.fullmatch(given):
        raise InvalidOptionError(f"sha256 must be 64 hexadecimal digits; got {given!r:.80}")
    return given.lower()


def _user_home(environment: Mapping[str, str]) -> Path:
    given = environment.get("HOME") or environment.get("USERPROFILE")
    try:
        return Path(given) if given else Path.home()
    except RuntimeError as exc:
        raise InvalidOptionError(f"no home directory: {exc}; set HOME") from exc

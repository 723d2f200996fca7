"""Where a model is on this machine: in the store, on a path, in a package, or with another program. No network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import assert_never

from attrs import evolve, frozen

from localllm.errors import InvalidOptionError, ModelNotFoundError
from localllm.models.catalogue import CatalogueEntry, PackageFile
from localllm.models.index import Index
from localllm.models.layout import Layout, hub_ref_of_name, url_name
from localllm.models.local import in_package, on_disk
from localllm.models.others import OtherStores
from localllm.models.quants import choose, part_names
from localllm.models.refs import (
    DEFAULT_REVISION,
    AliasRef,
    HubRef,
    LmStudioRef,
    OllamaRef,
    PathRef,
    Reference,
    UrlRef,
    hub_ref_of_url,
    parse_ref,
)
from localllm.models.stored import StoredFile, StoredModel

_MAX_NEAR = 5
_SHORTEST_COMMIT = 7


@frozen
class Finder:
    """Finds models on this machine.

    Args:
        layout: Where the store's things are.
        index: What the store holds.
        others: What other programs hold.
        endpoint: The Hub, whose addresses mean what `hf:` references mean.
    """

    layout: Layout
    index: Index
    others: OtherStores
    endpoint: str

    def find(self, ref: Reference, catalogue: Mapping[str, CatalogueEntry]) -> StoredModel:
        """Return the model that `ref` leads to.

        Args:
            ref: What is looked for.
            catalogue: The short names.

        Raises:
            ModelNotFoundError: It is not here; the message says where was looked, what is near, or how to get it.
            InvalidModelFileError: It is a directory.
        """
        match ref:
            case PathRef(text):
                return _of_path(on_disk(text, catalogue))
            case AliasRef(alias):
                return self._of_alias(catalogue[alias], catalogue)
            case HubRef():
                return self._of_hub(ref)
            case UrlRef():
                hub = hub_ref_of_url(ref.url, self.endpoint)
                return self._of_hub(hub) if hub is not None else self._of_url(ref)
            case OllamaRef():
                return self.others.ollama(ref)
            case LmStudioRef():
                return self.others.lm_studio(ref)
            case _:
                assert_never(ref)

    def packaged(self, catalogue: Mapping[str, CatalogueEntry]) -> list[StoredModel]:
        """Return the models of the catalogue whose packages are installed."""
        found = []
        for entry in catalogue.values():
            if isinstance(entry.source, PackageFile):
                try:
                    found.append(self._of_alias(entry, catalogue))
                except ModelNotFoundError:  # not installed
                    continue
        return found

    def _of_alias(self, entry: CatalogueEntry, catalogue: Mapping[str, CatalogueEntry]) -> StoredModel:
        if isinstance(entry.source, PackageFile):
            path = in_package(entry.alias, entry.source)
            file = StoredFile(path=path, size_bytes=path.stat().st_size, sha256=entry.sha256)
            return StoredModel(ref=entry.alias, files=(file,), origin="package")
        try:
            found = self.find(source_of(entry), catalogue)
        except ModelNotFoundError as exc:
            raise ModelNotFoundError(f"the alias {entry.alias!r} means {entry.source}: {exc}") from exc
        if entry.sha256 is None or len(found.files) > 1:
            return found
        return evolve(found, files=(evolve(found.files[0], sha256=entry.sha256),))

    def _of_hub(self, ref: HubRef) -> StoredModel:
        commits: dict[str, list[StoredModel]] = defaultdict(list)
        for model in sorted(self.index.models(), key=lambda model: model.pulled_at, reverse=True):
            repo = self._repo(model)
            named = ref.revision in (model.commit, model.revision or DEFAULT_REVISION)
            if repo == ref.repo and (named or _is_short_for(ref.revision, model.commit)):
                commits[model.commit].append(model)
        problem = ""
        for models in commits.values():
            names = {self._name(file.path): model for model in models for file in model.files}
            try:
                chosen = choose(list(names), f"what was fetched of hf:{ref.repo}", quant=ref.quant, file=ref.file)
            except ModelNotFoundError as exc:
                problem = problem or f"; {exc}"
            else:
                return names[chosen[0]]
        found = self.others.hugging_face(ref)
        if found is not None:
            return found
        raise self._not_fetched(str(ref), problem)

    def _of_url(self, ref: UrlRef) -> StoredModel:
        path = self.layout.models / url_name(ref)
        models = self.index.models()
        for model in models:
            if model.path == path:
                return model
        same = [model for model in models if model.ref == ref.url]  # as `list` shows it, without its query
        if len(same) == 1:
            return same[0]
        raise self._not_fetched(str(ref), "")

    def _not_fetched(self, ref: str, problem: str) -> ModelNotFoundError:
        near = get_close_matches(ref, [model.ref for model in self.index.models()], _MAX_NEAR, 0.7)
        hint = f"; is it {' or '.join(near)}?" if near else ""
        return ModelNotFoundError(
            f"{ref} is not on this machine{problem} (looked in {self.layout.models} and in the Hugging Face cache)"
            f"{hint}; fetch it with `localllm pull {ref}` or ModelStore.pull"
        )

    def _repo(self, model: StoredModel) -> str | None:
        ref = hub_ref_of_name(self._relative(model.path))
        return ref.repo if ref is not None else None

    def _name(self, path: Path) -> str:
        """Return what the file at `path` is called in its repository."""
        return "/".join(self._relative(path).parts[4:])

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(*path.relative_to(self.layout.models).parts)


def source_of(entry: CatalogueEntry) -> Reference:
    """Return what an alias that is not in a package means.

    Raises:
        InvalidOptionError: It is in a package.
    """
    if isinstance(entry.source, PackageFile):
        raise InvalidOptionError(f"the model {entry.alias!r} comes with a package, not from a reference")
    return parse_ref(entry.source)


def _is_short_for(revision: str, commit: str) -> bool:
    """Say whether `revision` is the beginning of a commit, as git and `localllm list` shorten them."""
    return len(revision) >= _SHORTEST_COMMIT and commit.startswith(revision)


def _of_path(path: Path) -> StoredModel:
    names = part_names(path.name)
    paths = [path.with_name(name) for name in names]
    if not all(part.is_file() for part in paths):  # what is missing is told by whoever reads the header
        paths = [path]
    files = tuple(StoredFile(path=part, size_bytes=part.stat().st_size) for part in paths)
    return StoredModel(ref=str(path), files=files, origin="path")

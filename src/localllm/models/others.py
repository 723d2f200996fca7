"""Models that other programs have downloaded: found and read, never changed.

- Ollama: `manifests/HOST/NAMESPACE/NAME/TAG` (JSON) names layers by digest, which lie in `blobs/sha256-DIGEST`.
- LM Studio: `models/PUBLISHER/REPO/FILE.gguf`; `~/.lmstudio-home-pointer` may say where its folder is.
- The Hugging Face cache: `models--ORG--REPO/refs/REVISION` holds a commit, `snapshots/COMMIT/FILE` leads to a blob;
  a large file's blob is named by its SHA-256.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from attrs import frozen

from localllm._json import JsonValue
from localllm.errors import LocalLLMError, ModelNotFoundError, UnsafeNameError
from localllm.models.names import safe_name
from localllm.models.quants import choose, models_among
from localllm.models.refs import HubRef, LmStudioRef, OllamaRef, parse_ref
from localllm.models.stored import Origin, StoredFile, StoredModel

_REGISTRY, _LIBRARY = "registry.ollama.ai", "library"
_MODEL_LAYER = "application/vnd.ollama.image.model"
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1024 * 1024
_MAX_NEAR = 5


@frozen
class OtherStores:
    """What other programs have downloaded.

    Args:
        home: The user's home directory.
        environment: Where those programs are told to put things.
    """

    home: Path
    environment: Mapping[str, str]

    def models(self) -> tuple[StoredModel, ...]:
        """Return everything that they have and that can be read."""
        return (*self._all_of_ollama(), *self._all_of_lm_studio(), *self._all_of_hugging_face())

    def ollama(self, ref: OllamaRef) -> StoredModel:
        """Return what Ollama has under this name.

        Raises:
            ModelNotFoundError: Nothing; the message says where was looked and what is near.
        """
        parts = ref.name.split("/")
        path = [*(_REGISTRY, _LIBRARY)[: 3 - len(parts)], *parts, ref.tag]
        if len(parts) == 2:
            path = [_REGISTRY, *parts, ref.tag]
        for root in self._ollama_roots():
            found = _ollama_model(root, root.joinpath("manifests", *path), str(ref))
            if found is not None:
                return found
        names = [model.ref for model in self._all_of_ollama()]
        raise _not_there(str(ref), "Ollama", self._ollama_roots(), names, f"`ollama pull {ref.name}:{ref.tag}`")

    def lm_studio(self, ref: LmStudioRef) -> StoredModel:
        """Return what LM Studio has under this name.

        Raises:
            ModelNotFoundError: Nothing, or several; the message says where was looked and what is near.
        """
        for root in self._lm_studio_roots():
            folder = root.joinpath(*ref.repo.split("/"))
            if "/" in ref.repo and folder.is_dir():
                chosen = choose(_ggufs(folder), f"{ref} in {root}", quant=ref.quant, file=ref.file)
                return _model(f"{ref}", folder, chosen, "lmstudio")
        everything = [model for root in self._lm_studio_roots() for model in _lm_studio_models(root)]
        if "/" not in ref.repo:
            fitting = [model for model in everything if ref.repo.lower() in model.path.name.lower()]
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                raise ModelNotFoundError(f"{ref} is several models: {', '.join(model.ref for model in fitting[:9])}")
        names = [model.ref for model in everything]
        raise _not_there(str(ref), "LM Studio", self._lm_studio_roots(), names, "LM Studio itself")

    def hugging_face(self, ref: HubRef) -> StoredModel | None:
        """Return what the Hugging Face cache has of this model, or None."""
        repo = self._hugging_face_root() / f"models--{ref.repo.replace('/', '--')}"
        commit = _commit(repo, ref.revision)
        if commit is None:
            return None
        folder = repo / "snapshots" / commit
        try:
            chosen = choose(_ggufs(folder), str(ref), quant=ref.quant, file=ref.file)
        except ModelNotFoundError:
            return None
        exact = HubRef(repo=ref.repo, revision=commit, file=chosen[0])
        return _model(str(exact), folder, chosen, "huggingface", revision=ref.revision, commit=commit)

    def _ollama_roots(self) -> list[Path]:
        own = self.environment.get("OLLAMA_MODELS")
        if own:
            return [Path(own)]
        # The last two are where Linux packages put them, for a service with a user of its own.
        return [self.home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama")]

    def _lm_studio_roots(self) -> list[Path]:
        home = _first_line(self.home / ".lmstudio-home-pointer")
        folder = Path(home) if home else self.home / ".lmstudio"
        roots = [folder / "models", self.home / ".cache" / "lm-studio" / "models"]
        match _read_json(folder / "settings.json"):
            case {"downloadsFolder": str(downloads)} if downloads:
                roots.insert(0, Path(downloads))
            case _:
                pass
        return list(dict.fromkeys(roots))

    def _hugging_face_root(self) -> Path:
        cache = self.environment.get("HF_HUB_CACHE")
        if cache:
            return Path(cache)
        home = self.environment.get("HF_HOME")
        if home:
            return Path(home) / "hub"
        return Path(self.environment.get("XDG_CACHE_HOME") or self.home / ".cache") / "huggingface" / "hub"

    def _all_of_ollama(self) -> Iterator[StoredModel]:
        for root in self._ollama_roots():
            for manifest in sorted(_files(root / "manifests", depth=4)):
                ref = _ollama_ref(manifest.relative_to(root / "manifests").parts)
                found = _ollama_model(root, manifest, ref) if ref else None
                if found is not None:
                    yield found

    def _all_of_lm_studio(self) -> Iterator[StoredModel]:
        for root in self._lm_studio_roots():
            yield from _lm_studio_models(root)

    def _all_of_hugging_face(self) -> Iterator[StoredModel]:
        for repo in sorted(_folders(self._hugging_face_root())):
            name = repo.name.removeprefix("models--").replace("--", "/", 1)
            if not repo.name.startswith("models--") or not _is_repo(name):
                continue
            for snapshot in sorted(_folders(repo / "snapshots")):
                for model in models_among(_ggufs(snapshot)):
                    ref = HubRef(repo=name, revision=snapshot.name, file=model.names[0])
                    yield _model(str(ref), snapshot, model.names, "huggingface", commit=snapshot.name)


def _ollama_ref(parts: tuple[str, ...]) -> str:
    """Return how Ollama calls the model of a manifest; empty if this is none."""
    match parts:
        case [host, namespace, name, tag] if (host, namespace) == (_REGISTRY, _LIBRARY):
            return f"ollama:{name}:{tag}"
        case [host, namespace, name, tag] if host == _REGISTRY:
            return f"ollama:{namespace}/{name}:{tag}"
        case [host, namespace, name, tag]:
            return f"ollama:{host}/{namespace}/{name}:{tag}"
        case _:
            return ""


def _ollama_model(root: Path, manifest: Path, ref: str) -> StoredModel | None:
    match _read_json(manifest):
        case {"layers": [*layers]}:
            pass
        case _:
            return None
    for layer in layers:
        match layer:
            case {"mediaType": str(kind), "digest": str(digest)} if kind.partition(";")[0] == _MODEL_LAYER:
                match_ = _DIGEST.fullmatch(digest)
                blob = root / "blobs" / f"sha256-{match_[1]}" if match_ is not None else None
                if match_ is None or blob is None or not blob.is_file():
                    return None
                file = StoredFile(path=blob, size_bytes=blob.stat().st_size, sha256=match_[1])
                return StoredModel(ref=ref, files=(file,), origin="ollama")
            case _:
                pass
    return None


def _lm_studio_models(root: Path) -> Iterator[StoredModel]:
    for publisher in sorted(_folders(root)):
        for repo in sorted(_folders(publisher)):
            for model in models_among(_ggufs(repo)):
                ref = f"lmstudio:{publisher.name}/{repo.name}/{model.names[0]}"
                yield _model(ref, repo, model.names, "lmstudio")


def _model(
    ref: str, folder: Path, names: tuple[str, ...], origin: Origin, *, revision: str = "", commit: str = ""
) -> StoredModel:
    files = []
    for name in names:
        path = folder / name
        blob = path.resolve().name  # in the Hugging Face cache: a checksum
        sha256 = blob if origin == "huggingface" and _SHA256.fullmatch(blob) else None
        files.append(StoredFile(path=path, size_bytes=path.stat().st_size, sha256=sha256))
    return StoredModel(ref=ref, files=tuple(files), origin=origin, revision=revision, commit=commit)


def _commit(repo: Path, revision: str) -> str | None:
    """Return the commit that the cache knows `revision` as; None if it has none."""
    text = _first_line(repo.joinpath("refs", *revision.split("/"))) or revision
    try:
        commit = safe_name(text)
    except UnsafeNameError:
        return None
    return commit if (repo / "snapshots" / commit).is_dir() else None


def _ggufs(folder: Path) -> list[str]:
    """Return the GGUF files below `folder`, as names with "/"."""
    return [path.relative_to(folder).as_posix() for path in _files(folder, depth=3) if path.suffix.lower() == ".gguf"]


def _files(folder: Path, *, depth: int) -> Iterator[Path]:
    """Yield the files below `folder`, so many folders deep; nothing where it cannot be read."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if path.is_dir() and depth > 0:
            yield from _files(path, depth=depth - 1)
        elif path.is_file():  # not so for a link that leads nowhere
            yield path


def _folders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


def _first_line(path: Path) -> str:
    """Return the first line of a small file; empty if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(4096).strip()
    except (OSError, ValueError):
        return ""


def _read_json(path: Path) -> JsonValue:
    """Return what a small JSON file holds; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            value: JsonValue = json.loads(file.read(_MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return value


def _is_repo(name: str) -> bool:
    try:
        return isinstance(parse_ref(f"hf:{name}"), HubRef)
    except LocalLLMError:
        return False


def _not_there(ref: str, program: str, roots: list[Path], names: list[str], how: str) -> ModelNotFoundError:
    near = get_close_matches(ref, names, _MAX_NEAR) or names[:_MAX_NEAR]
    looked = ", ".join(str(root) for root in roots)
    hint = f"; is it {' or '.join(near)}?" if near else f"; get it with {how}"
    return ModelNotFoundError(f"{program} has no model {ref!r:.200} (looked in {looked}){hint}")

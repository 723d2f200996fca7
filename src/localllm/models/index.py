"""What the store holds: a small file that is read at once, and made again from the models' own notes if it is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from localllm._json import JsonValue
from localllm.errors import StoreError, UnsafeNameError
from localllm.models.layout import NOTE_ENDING, Layout, hub_ref_of_name, note_of
from localllm.models.locks import locked, store_errors, write_atomically
from localllm.models.names import safe_parts
from localllm.models.quants import models_among
from localllm.models.stored import StoredFile, StoredModel

VERSION = 1


class Index:
    """The store's content. Safe to use from several threads and processes.

    Readers take no lock, since the file is replaced as a whole; who changes it holds a lock from reading to writing.

    Args:
        layout: Where things are.
        on_wait: Called while another process changes it; lets a little time pass.
    """

    def __init__(self, layout: Layout, on_wait: Callable[[], None]) -> None:
        self._layout = layout
        self._on_wait = on_wait

    def models(self) -> tuple[StoredModel, ...]:
        """Return all models, in the order of their references.

        Raises:
            StoreError: The index cannot be read, or was written by a newer version.
        """
        found = self._read()
        if found is None:
            if not self._layout.models.is_dir():  # nothing was ever pulled: looking must leave no trace
                return ()
            found = self.rebuild()
        return tuple(model for model in found if all(file.path.is_file() for file in model.files))

    def add(self, model: StoredModel) -> None:
        """Note `model`, beside its file and in the index; replaces what was noted of the same file.

        Raises:
            StoreError: It cannot be written.
        """
        data = json.dumps(_to_json(model, self._layout.models), indent=1).encode()
        with self._changing():
            write_atomically(note_of(model.path), data)
            self._write([other for other in self._current() if other.path != model.path] + [model])

    def discard(self, model: StoredModel) -> None:
        """Forget `model`; its files stay, its note goes.

        Raises:
            StoreError: It cannot be written.
        """
        with self._changing():
            left = [other for other in self._current() if other.path != model.path]
            with suppress(FileNotFoundError):
                note_of(model.path).unlink()
            self._write(left)

    def rebuild(self) -> list[StoredModel]:
        """Make the index again from what is on the disk, and return it.

        Raises:
            StoreError: The folder cannot be read, or the index cannot be written.
        """
        with self._changing():
            found = self._read()  # another process may have been quicker
            if found is None:
                found = _scan(self._layout.models)
                self._write(found)
            return found

    def _current(self) -> list[StoredModel]:
        found = self._read()
        return _scan(self._layout.models) if found is None else found

    def _read(self) -> list[StoredModel] | None:
        """Return what the index says; None if there is none, or none that can be understood."""
        path = self._layout.index
        try:
            value: JsonValue = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError):
            return None
        except OSError as exc:
            raise StoreError(f"cannot read {path}: {exc}") from exc
        match value:
            case {"version": int(version)} if version > VERSION:
                raise StoreError(
                    f"{path} was written by a newer version of localllm (format {version}); update this one"
                )
            case {"version": int(), "models": [*models]}:
                found = [_from_json(model, self._layout.models) for model in models]
                return None if None in found else [model for model in found if model is not None]
            case _:
                return None

    def _write(self, models: list[StoredModel]) -> None:
        folder = self._layout.models
        ordered = sorted(models, key=lambda model: model.ref)
        content = {"version": VERSION, "models": [_to_json(model, folder) for model in ordered]}
        write_atomically(self._layout.index, json.dumps(content, indent=1).encode())

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with store_errors("cannot change the index of the store"), locked(self._layout.index_lock, self._on_wait):
            yield


def _scan(folder: Path) -> list[StoredModel]:
    """Return the models in `folder`: those that have a note beside them, and whole ones of the Hub without."""
    noted = [_read_note(path, folder) for path in sorted(folder.rglob(f"*.gguf{NOTE_ENDING}"))]
    models = {model.path: model for model in noted if model is not None}
    known = {file.path for model in models.values() for file in model.files}
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.gguf")) if path not in known]
    for found in models_among(names):
        ref = hub_ref_of_name(PurePosixPath(found.names[0]))
        files = tuple(folder / name for name in found.names)
        if ref is not None and all(file.is_file() for file in files):
            models[files[0]] = StoredModel(
                ref=str(ref),
                files=tuple(StoredFile(path=file, size_bytes=file.stat().st_size) for file in files),
                origin="store",
                commit=ref.revision,
            )
    return sorted(models.values(), key=lambda model: model.ref)


def _read_note(path: Path, folder: Path) -> StoredModel | None:
    """Return the model that a note describes; None if the note is damaged or the files are not those it speaks of."""
    try:
        value: JsonValue = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    model = _from_json(value, folder)
    if model is None or note_of(model.path) != path:
        return None
    try:
        whole = all(file.path.stat().st_size == file.size_bytes for file in model.files)
    except OSError:
        return None
    return model if whole else None


def _to_json(model: StoredModel, folder: Path) -> dict[str, JsonValue]:
    return {
        "ref": model.ref,
        "revision": model.revision,
        "commit": model.commit,
        "pulled_at": model.pulled_at,
        "files": [
            {
                "name": file.path.relative_to(folder).as_posix(),
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
            }
            for file in model.files
        ],
    }


def _from_json(value: JsonValue, folder: Path) -> StoredModel | None:
    match value:
        case {
            "ref": str(ref),
            "revision": str(revision),
            "commit": str(commit),
            "pulled_at": str(pulled_at),
            "files": [_, *_] as items,
        }:
            files = [_file(item, folder) for item in items]
        case _:
            return None
    good = tuple(file for file in files if file is not None)
    if len(good) != len(files):
        return None
    return StoredModel(ref=ref, files=good, origin="store", revision=revision, commit=commit, pulled_at=pulled_at)


def _file(value: JsonValue, folder: Path) -> StoredFile | None:
    match value:
        case {"name": str(name), "size_bytes": int(size), "sha256": str() | None as sha256}:
            try:
                path = folder.joinpath(*safe_parts(name))  # what is removed is what the index names
            except UnsafeNameError:
                return None
            return StoredFile(path=path, size_bytes=size, sha256=sha256)
        case _:
            return None

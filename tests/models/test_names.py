"""Names from somebody else: plain names on every system, or refused."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import UnsafeNameError
from localllm.models.names import MAX_NAME_BYTES, safe_name, safe_parts


@given(st.text(st.sampled_from("ab./\\:~ \0\nCONcon1\u202eä"), max_size=30))
def test_what_is_accepted_stays_below_its_folder_on_every_system(name: str) -> None:
    """However it is put together: relative, without "..", and the same parts to POSIX and to Windows."""
    try:
        parts = safe_parts(name)
    except UnsafeNameError:
        return
    assert "/".join(parts) == name
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(*parts)
        assert not path.is_absolute()
        assert path.parts == parts
        assert ".." not in parts
        assert not kind("root", *parts).relative_to("root").anchor


@given(st.lists(st.from_regex(r"[a-z0-9_][A-Za-z0-9_.-]{0,20}[A-Za-z0-9]", fullmatch=True), min_size=1, max_size=5))
def test_plain_names_are_accepted(parts: list[str]) -> None:
    """Unless they are devices."""
    if not {part.partition(".")[0] for part in parts} & {"con", "prn", "aux", "nul"}:
        assert safe_parts("/".join(parts)) == tuple(parts)


@pytest.mark.parametrize("device", ["CON", "con.gguf", "NUL.tar.gz", "Com1", "LPT9.x", "COM²", "CONIN$", "aux"])
def test_windows_devices_are_refused(device: str) -> None:
    """With any ending, in any case."""
    with pytest.raises(UnsafeNameError, match="is a device on Windows"):
        safe_parts(f"folder/{device}")


def test_length_and_depth_have_limits() -> None:
    """Of each part in bytes, and of the whole in parts."""
    assert safe_parts("x" * MAX_NAME_BYTES)
    with pytest.raises(UnsafeNameError, match="longer than"):
        safe_parts("ä" * (MAX_NAME_BYTES // 2 + 1))
    with pytest.raises(UnsafeNameError, match=r"lone surrogate|treat specially"):
        safe_parts("\ud800")
    with pytest.raises(UnsafeNameError, match="parts; allowed"):
        safe_parts("/".join("a" * 30))


def test_a_single_name_has_no_folders() -> None:
    """As a commit or a host must be."""
    assert safe_name("abc") == "abc"
    with pytest.raises(UnsafeNameError, match="holds '/'"):
        safe_name("a/b")


def test_it_is_written_where_it_says(tmp_path: Path) -> None:
    """An accepted name can be made on this system."""
    path = tmp_path.joinpath(*safe_parts("a b/ü-1.gguf"))
    path.parent.mkdir()
    path.touch()
    assert path.is_file()

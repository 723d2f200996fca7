"""The tiny models are what they should be, and our guard lets them pass."""

from __future__ import annotations

from pathlib import Path

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.models.checks import check_file
from tests.kinds.conftest import Tiny
from tests.kinds.tiny_kinds import WINDOW, write_kind


def test_the_guard_lets_them_pass(tiny: Tiny) -> None:
    """Their headers are those of sound models."""
    assert check_file(tiny.path).tensors
    assert tiny.path.stat().st_size < 1_000_000


def test_a_seed_makes_the_same_file(tiny: Tiny, tmp_path: Path) -> None:
    """Byte for byte; another seed makes another one."""
    again = write_kind(tmp_path / "again.gguf", tiny.kind)
    other = write_kind(tmp_path / "other.gguf", tiny.kind, seed=77)
    assert again.read_bytes() == tiny.path.read_bytes() != other.read_bytes()


def test_their_kinds_are_told_apart(tiny: Tiny) -> None:
    """From the loaded model: whether a state is carried along, and the window."""
    model = NativeModel(tiny.path)
    try:
        assert model.n_swa == (WINDOW if tiny.kind == "sliding" else 0)
        if tiny.kind != "sliding":
            assert not model.can_cut
    finally:
        model.close()

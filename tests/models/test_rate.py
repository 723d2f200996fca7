"""A gigabyte over loopback, beside curl: figures, printed by `make soak`; `make bench` holds the rate's bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.scenarios.transfer import download
from bench.systems.base import Setup
from bench.systems.own import LocalLLM


@pytest.mark.soak
def test_a_gigabyte_leaves_memory_flat() -> None:
    """With the hash on, fsync included: within 64 MiB."""
    figures = download(LocalLLM(Setup(path=Path("none"), threads=1, n_ctx=8, n_parallel=1)), 0)
    print("\n" + ", ".join(f"{name} {figure:.3g}" for name, figure in figures.items()))
    assert figures["memory"] < 64

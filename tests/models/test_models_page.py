"""The code in docs/models.md runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs(number: int, tmp_path: Path) -> None:
    """Each is whole."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKS[number]],
        capture_output=True,
        text=True,
        timeout=15,
        env=os.environ | {"HOME": str(tmp_path), "LOCALLLM_HOME": str(tmp_path / "store")},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_order_of_quantizations_is_the_documented_one() -> None:
    """What is taken without a wish."""
    from localllm.models.quants import PREFERRED

    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"has is taken: {', '.join(PREFERRED)}." in page

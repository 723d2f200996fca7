"""docs/structured-output.md: its code runs, and its lists are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from localllm.output import plain, schema
from localllm.output.formats import FORMATS
from localllm.output.keywords import ENFORCED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "structured-output.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_runs(number: int, tmp_path: Path) -> None:
    """Each block is whole, and prints something; the first is on the real model."""
    block = tmp_path / "block.py"
    block.write_text(BLOCKS[number], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(block)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
        env=os.environ | {"OMP_WAIT_POLICY": "passive", "PYTHONIOENCODING": "utf-8"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout.strip()


def test_the_lists_are_whole() -> None:
    """Every keyword and format that is enforced, and every limit."""
    enforced = PAGE.partition("## What is enforced")[2].partition("What cannot be enforced")[0]
    named = set(re.findall(r"`([^`]+)`", enforced))
    assert set(ENFORCED) - {"$defs", "definitions"} <= named
    assert named & FORMATS == FORMATS
    limits = [f"{plain.MAX_CHARS // 1024} KiB", f"{plain.MAX_VALUES:,} values", f"{schema.MAX_NODES:,} subschemas"]
    limits += [f"{schema.MAX_PROPERTIES} properties", f"{schema.MAX_ENUM:,} values", f"{plain.MAX_DEPTH} levels"]
    assert all(limit in PAGE for limit in limits)

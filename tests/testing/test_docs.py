"""The code in docs/testing.md does what the page says; that which uses fixtures is run in `test_plugin`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

_PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```python\n(.*?)^```$", _PAGE, re.MULTILINE | re.DOTALL)


_PLAIN = [block for block in _BLOCKS if re.search(r"def test_\w+\(\)", block)]


@pytest.mark.parametrize("block", _PLAIN, ids=lambda block: re.findall(r"def (test_\w+)", block)[0])
def test_a_block_of_the_page_runs(block: str) -> None:
    """Each block is a whole test, of at most a page."""
    names: dict[str, Any] = {}
    exec(compile(block, "docs/testing.md", "exec"), names)
    (test,) = [value for name, value in names.items() if name.startswith("test_")]
    test()

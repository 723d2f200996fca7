"""The code in the pages about sessions and tools runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (page, number, block)
    for page in ("sessions.md", "tools.md")
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "number", "block"), BLOCKS, ids=[f"{page}-{number}" for page, number, _ in BLOCKS])
def test_the_code_of_the_pages_runs(page: str, number: int, block: str) -> None:
    """Each block is whole, and its assertions hold."""
    exec(compile(block, f"{page}-{number}", "exec"), {"__name__": "__main__"})


def test_every_page_has_code() -> None:
    """Else the test above would hold nothing."""
    assert len(BLOCKS) >= 7

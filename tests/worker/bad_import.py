"""A backend whose import fails."""

from __future__ import annotations

raise RuntimeError("no GPU")

"""Fakes that workers load by their import path, and which are slow enough to be cancelled from another process."""

from __future__ import annotations

import itertools

from localllm.backends.fake import FakeBackend, FakeReply

_TEXT = " ".join(f"word {count} 🙂" for count in range(100))
_DELAY_S = 0.003


class SlowFake(FakeBackend):
    """Says the same again and again, with a thought before it."""

    def __init__(self) -> None:
        super().__init__(itertools.repeat(FakeReply(_TEXT, thought="Let me think. " * 3, delay_s=_DELAY_S)))


class BrokenFake(FakeBackend):
    """Fails in the middle of every reply."""

    def __init__(self) -> None:
        super().__init__(itertools.repeat(FakeReply(_TEXT, error=ValueError("midway"), error_at=5)))


class CrashingFake(FakeBackend):
    """Breaks down in the middle of every reply, and takes the others with it."""

    def __init__(self) -> None:
        super().__init__(itertools.repeat(FakeReply(_TEXT, crash=True, error_at=5)))


class Picky(FakeBackend):
    """Cannot be made without a script."""

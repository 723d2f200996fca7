"""A backend whose pieces say when they were made: what a chunk's way to its reader takes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from localllm.backends.base import GenerateRequest, ModelSpec
from localllm.backends.simple import Pause, Piece, SimpleBackend, SimpleModel

PAUSE_S = 0.002  # between two pieces: they are neither merged nor in each other's way


class StampModel(SimpleModel):
    """Says what time it is, again and again."""

    def pieces(self, request: GenerateRequest) -> Iterator[Piece]:
        """Yield nanoseconds of the system's monotonic clock, which all processes share."""
        while True:
            yield f"{time.monotonic_ns()} "
            yield Pause(self.clock.now() + PAUSE_S)


class StampBackend(SimpleBackend):
    """Loads it."""

    name = "stamps"
    uses_files = False

    def open(self, spec: ModelSpec) -> StampModel:
        """Return the model."""
        return StampModel(spec)

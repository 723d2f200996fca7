"""Helpers for tests that fetch: small models of any content, stores on a clock of their own."""

from __future__ import annotations

import random
from pathlib import Path

from attrs import define, field, frozen

from localllm.models.cancel import Cancellation
from localllm.models.network import Network
from localllm.models.progress import PullProgress
from localllm.models.retry import RetryPolicy, Timing
from localllm.models.store import ModelStore
from tests.models.hub_server import HubServer

STALL_S = 0.15
"""How long the tests wait for a server that has fallen silent."""


def gguf_bytes(size_bytes: int = 40_000, seed: int = 0) -> bytes:
    """Return a GGUF file of about that size with one tensor of random bytes, whole as far as its header goes."""
    elements = max(32, size_bytes // 32 * 32)
    name = b"token_embd.weight"
    header = b"GGUF" + (3).to_bytes(4, "little") + (1).to_bytes(8, "little") + (1).to_bytes(8, "little")
    header += _string(b"general.architecture") + (8).to_bytes(4, "little") + _string(b"llama")
    header += _string(name) + (1).to_bytes(4, "little") + elements.to_bytes(8, "little")
    header += (24).to_bytes(4, "little") + (0).to_bytes(8, "little")  # 24: 8-bit integers
    return header + bytes(-len(header) % 32) + random.Random(seed).randbytes(elements)


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@define(eq=False)
class FakeTime:
    """A clock that only waiting moves.

    Args:
        waits: What was waited for, in seconds.
    """

    now_s: float = 0.0
    waits: list[float] = field(factory=list)

    def wait(self, cancel: Cancellation, seconds: float) -> None:
        """Let time pass at once."""
        self.waits.append(seconds)
        self.now_s += seconds
        cancel.check()

    @property
    def timing(self) -> Timing:
        """What is passed in."""
        return Timing(now=lambda: self.now_s, wait=self.wait, random=lambda: 0.0)


@define(eq=False)
class Log:
    """Remembers what a pull told."""

    events: list[PullProgress] = field(factory=list)

    def __call__(self, progress: PullProgress) -> None:
        self.events.append(progress)

    @property
    def phases(self) -> list[str]:
        """The phases in their order, each once in a row."""
        told = [event.phase for event in self.events]
        return [phase for index, phase in enumerate(told) if index == 0 or told[index - 1] != phase]


@frozen
class MakeStore:
    """Makes stores.

    Args:
        home: Their folder.
        user: The home directory of a user who has no other programs.
        hub: Where they fetch from.
    """

    home: Path
    user: Path
    hub: HubServer

    def __call__(
        self,
        *,
        time: FakeTime | None = None,
        token: str | None = None,
        retries: int = 5,
        free: int = 10**12,
        stall_s: float = 10.0,
    ) -> ModelStore:
        """Return a store on the common folder."""
        timing = time.timing if time is not None else FakeTime().timing
        network = Network(
            endpoint=self.hub.url, token=token, timing=timing, retry=RetryPolicy(retries=retries), stall_s=stall_s
        )
        return ModelStore(
            self.home, network=network, environment={"HOME": str(self.user)}, free_bytes=lambda folder: free
        )


def tree(folder: Path) -> dict[str, int]:
    """Return the sizes of all files in `folder`, but for locks, by name."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }

"""Idle chats in host memory: out of the KV cache, where they would slow every running one, and soon back in it."""

from __future__ import annotations

from array import array

from attrs import define

from localllm.engine.cells import Held


@define(eq=False)
class Stashed:
    """A sequence that was moved out of the context.

    Args:
        tokens: The tokens of its cells.
        data: The cells' content, once it has been copied; opaque to everybody but the context.
    """

    tokens: array[int]
    data: bytes | None = None


class HostCache:
    """Sequences in host memory, the ones used longest ago given up first.

    Args:
        limit_bytes: Bytes that they may take together; 0 keeps none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes: int = limit_bytes
        self.used_bytes: int = 0
        self.evictions: int = 0
        self._entries: dict[int, Stashed] = {}  # by identity, the one used longest ago first

    @property
    def entries(self) -> tuple[Stashed, ...]:
        """All of them, the one used longest ago first."""
        return tuple(self._entries.values())

    def add(self, held: Held) -> Stashed:
        """Return the place of a sequence that is about to be moved here; `saved` brings its content."""
        stashed = Stashed(held.tokens[:])
        self._entries[id(stashed)] = stashed
        return stashed

    def saved(self, stashed: Stashed, data: bytes) -> None:
        """Take a sequence's content, and give others up if they are too much together."""
        stashed.data = data
        if id(stashed) not in self._entries:  # taken out again in the same step, to be loaded after this
            return
        self.used_bytes += len(data)
        for oldest in self.entries:
            if self.used_bytes <= self.limit_bytes:
                return
            self.evictions += 1
            self.take(oldest)

    def take(self, stashed: Stashed) -> None:
        """Take a sequence out, to be used or given up; its content stays with it."""
        if self._entries.pop(id(stashed), None) is not None and stashed.data is not None:
            self.used_bytes -= len(stashed.data)

    def forget_unsaved(self) -> None:
        """The context is lost: what was still to be copied is gone."""
        for stashed in self.entries:
            if stashed.data is None:
                self.take(stashed)

"""Which stored prompt begins as a given one does, by hashes at the boundaries of blocks. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from localllm.engine.prefix_cache import common_prefix

BLOCK_TOKENS = 64
"""Tokens from one hash to the next; shorter common beginnings are not found."""


class PromptIndex:
    """Stored prompts by their beginnings: looking one up takes a hash for each block that is the same.

    Args:
        block_tokens: Tokens from one hash to the next.
    """

    def __init__(self, block_tokens: int = BLOCK_TOKENS) -> None:
        self._block = block_tokens
        self._tokens: dict[str, array[int]] = {}
        self._beginning: dict[
            int, dict[str, None]
        ] = {}  # by the hash of whole blocks: the prompts that begin with them

    def names(self) -> frozenset[str]:
        """Return the names of all prompts."""
        return frozenset(self._tokens)

    def add(self, name: str, tokens: array[int]) -> None:
        """Take a prompt; one of the same name is replaced."""
        self.remove(name)
        self._tokens[name] = tokens
        for key in self._keys(tokens):
            self._beginning.setdefault(key, {})[name] = None

    def remove(self, name: str) -> None:
        """Forget a prompt, if it is there."""
        tokens = self._tokens.pop(name, None)
        for key in () if tokens is None else self._keys(tokens):
            names = self._beginning[key]
            del names[name]
            if not names:
                del self._beginning[key]

    def find(self, tokens: array[int]) -> tuple[str, int]:
        """Return the prompt with the longest beginning in common with `tokens`, and how many tokens it has.

        An empty name and 0 if there is none of a whole block.
        """
        nearest: dict[str, None] = {}
        for key in self._keys(tokens):
            if key not in self._beginning:
                break
            nearest = self._beginning[key]
        best, length = "", 0
        for name in nearest:  # they agree in whole blocks, and few go on alike
            found = common_prefix(tokens, self._tokens[name], length)
            if found > length:
                best, length = name, found
        return (best, length) if length >= self._block else ("", 0)  # hashes may be equal by chance

    def _keys(self, tokens: array[int]) -> Iterator[int]:
        key = 0
        for stop in range(self._block, len(tokens) + 1, self._block):
            key = hash((key, tokens[stop - self._block : stop].tobytes()))
            yield key

"""Idle chats in host memory: out of the KV cache, where they would slow every running one, and soon back in it.

What they hold is kept in blocks of tokens, which form a tree: a block's place is given by all the tokens before it.
Chats that begin alike share the blocks of their beginning, and a chat that comes back again and again has only what
is new copied. The tree is what vLLM and SGLang know as hashed blocks and radix attention.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from attrs import define, field

from localllm.engine.prefix_cache import common_prefix

BLOCK_TOKENS = 64
"""Tokens of a block: 1.4 MB of a model of 135M parameters, 0.5 ms to copy; larger ones are shared less."""


@define(eq=False)
class Block:
    """A stretch of a sequence's cells.

    Args:
        start: The position of its first token.
        tokens: Its tokens; fewer than a whole block at a sequence's end.
        parent: The block before it.
        children: The whole blocks and ends that follow it, by their tokens.
        data: The cells' content, once it has been copied; opaque to everybody but the context.
        gone: Whether it was given up.
    """

    start: int
    tokens: array[int]
    parent: Block | None = field(default=None, repr=False)
    children: dict[bytes, Block] = field(factory=dict, repr=False)
    data: bytes | None = field(default=None, repr=False)
    gone: bool = False

    @property
    def stop(self) -> int:
        """The position after its last token."""
        return self.start + len(self.tokens)


class HostCache:
    """Blocks in host memory, the ones used longest ago given up first.

    Args:
        limit_bytes: Bytes that they may take together; 0 keeps none.
        block_tokens: Tokens of a block.
        whole: Keep each sequence as one block that can only be used as a whole: for models that cannot be cut.
    """

    def __init__(self, limit_bytes: int, block_tokens: int = BLOCK_TOKENS, *, whole: bool = False) -> None:
        self.limit_bytes: int = limit_bytes
        self.used_bytes: int = 0
        self.evictions: int = 0
        self.block_tokens: int = block_tokens
        self._whole = whole
        self._root = Block(0, array("i"))
        self._recent: dict[Block, None] = {}  # saved ones, the one used longest ago first, parents after children

    def __len__(self) -> int:
        return len(self._recent)

    def find(self, tokens: array[int]) -> tuple[list[Block], int]:
        """Return the blocks that hold the longest prefix of `tokens`, in order, and the prefix's length.

        The last block may hold more than the prefix.
        """
        if self._whole:
            return self._find_whole(tokens)
        found: list[Block] = []
        block, position = self._root, 0
        while True:
            wanted = tokens[position : position + self.block_tokens]
            child = block.children.get(wanted.tobytes())
            if child is None or child.data is None or len(child.tokens) < self.block_tokens:
                break
            found.append(child)
            block, position = child, position + self.block_tokens
        last, length = None, 0
        for child in block.children.values():
            if child.data is not None and (common := common_prefix(wanted, child.tokens, length)):
                last, length = child, common
        return (found, position) if last is None else ([*found, last], position + length)

    def _find_whole(self, tokens: array[int]) -> tuple[list[Block], int]:
        whole = [
            child
            for child in self._root.children.values()
            if child.data is not None and tokens[: len(child.tokens)] == child.tokens
        ]
        longest = max(whole, key=lambda child: len(child.tokens), default=None)
        return ([], 0) if longest is None else ([longest], len(longest.tokens))

    def missing(self, tokens: array[int]) -> Block | None:
        """Return the first block of `tokens` that is not here, its place taken, or None if all are.

        The caller is to bring its content with `saved`, or to give the place back with `discard`.
        """
        block, position = self._root, 0
        size = len(tokens) if self._whole else self.block_tokens
        while position < len(tokens):
            wanted = tokens[position : position + size]
            child = block.children.get(wanted.tobytes())
            if child is None:
                if len(wanted) < size and any(
                    other.tokens[: len(wanted)] == wanted for other in block.children.values()
                ):
                    return None  # the end of the sequence is the beginning of a block that is here
                child = Block(position, wanted, block)
                block.children[wanted.tobytes()] = child
                return child
            block, position = child, position + len(wanted)
        return None

    def saved(self, block: Block, data: bytes) -> None:
        """Take a block's content, and give others up if they are too much together."""
        block.data = data
        self.used_bytes += len(data)
        self.touch(block)
        if block.parent is not None and not self._whole:
            for end in [end for end in block.parent.children.values() if _continues(end, block)]:
                self.discard(end)
        while self.used_bytes > self.limit_bytes:
            self.evictions += 1
            self.discard(next(iter(self._recent)))

    def adopt(self, tokens: array[int], start: int, data: bytes) -> bool:
        """Take the block of `tokens` that begins at `start`, whose content came from elsewhere; whether it is here now.

        Those before it must be here, and stay: if there is no room beside them, it is not taken.
        """
        known, _ = self.find(tokens)
        if known:
            self.touch(known[-1])
        block = self.missing(tokens)
        if block is None:
            return True
        before = set(self._path(block))
        while self.used_bytes + len(data) > self.limit_bytes:
            oldest = next(iter(self._recent), None)
            if oldest is None or oldest in before:
                break
            self.evictions += 1
            self.discard(oldest)
        whole = block.start == start and block.stop == len(tokens)
        if block.gone or not whole or self.used_bytes + len(data) > self.limit_bytes:
            self.discard(block)
            return False
        self.saved(block, data)
        return True

    def touch(self, block: Block) -> None:
        """Mark a block and those before it as used last."""
        for node in self._path(block):
            if node.data is not None:
                self._recent.pop(node, None)
                self._recent[node] = None

    def _path(self, block: Block) -> Iterator[Block]:
        """Yield a block and those before it, the last one first."""
        node: Block | None = block
        while node is not None and node is not self._root:
            yield node
            node = node.parent

    def discard(self, block: Block) -> None:
        """Give a block up, and those after it; nothing if that was done."""
        if block.gone:
            return
        for child in list(block.children.values()):
            self.discard(child)
        block.gone = True
        if block.parent is not None:
            block.parent.children.pop(block.tokens.tobytes(), None)
        self._recent.pop(block, None)
        if block.data is not None:
            self.used_bytes -= len(block.data)

    def forget_unsaved(self) -> None:
        """The context is lost: what was still to be copied is gone."""
        pending = [self._root]
        while pending:
            block = pending.pop()
            if block.data is None and block is not self._root:
                self.discard(block)
            else:
                pending += block.children.values()


def _continues(end: Block, block: Block) -> bool:
    """Whether `end`, the end of a sequence, is the beginning of `block`: it is of no more use."""
    shorter = len(end.tokens) < len(block.tokens)
    return shorter and end.data is not None and block.tokens[: len(end.tokens)] == end.tokens

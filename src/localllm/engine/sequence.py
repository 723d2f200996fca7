"""A request inside the engine: its tokens, how far they are computed, and what is to be done next."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right

from attrs import define, field

from localllm.engine.cells import Held
from localllm.engine.host_cache import Block


@define(eq=False)
class Sequence:
    """One request as the scheduler sees it.

    Args:
        prompt: The prompt's tokens, as signed 32-bit integers.
        max_new: Tokens to generate at most.
        preload: Only read the prompt into the cache.
        background: Stay behind everybody else, as a preload does.
        tokens: The prompt and what was generated.
        computed: Leading tokens whose cells are in the context.
        cached: Prompt tokens that were found in the cache at the first admission.
        held: Its sequence id and cells while it runs.
        loads: Blocks that are still to be put back from host memory, with the positions to take from each.
        leader: The running sequence that is computing a prefix which this one waits to share.
        shared: The prefix that it will share then, in tokens.
        admitted: Whether it was ever admitted; a preempted one was.
        runs: Where generated tokens begin and end that were known at once, in order; each is longer than one token.
    """

    prompt: array[int]
    max_new: int
    preload: bool = False
    background: bool = field(kw_only=True)
    tokens: array[int] = field(init=False)
    computed: int = 0
    cached: int = 0
    held: Held | None = None
    loads: list[tuple[Block, int, int]] = field(factory=list, repr=False)
    leader: Sequence | None = field(default=None, repr=False)
    shared: int = 0
    admitted: bool = False
    runs: list[tuple[int, int]] = field(factory=list, repr=False)

    @background.default
    def _of_preload(self) -> bool:
        return self.preload

    def __attrs_post_init__(self) -> None:
        self.tokens = array("i", self.prompt)

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.prompt)

    @property
    def pending(self) -> int:
        """Known tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    @property
    def decoding(self) -> bool:
        """Whether its next work is what was generated last, or generated tokens that are read again."""
        return self.computed >= len(self.prompt) and self.pending > 0 and not self.loads

    @property
    def run(self) -> int:
        """How many tokens the next work of a decoding sequence computes: the sampled one, and those forced after it.

        Sampled tokens are always computed one by one and runs as they were, so that a replay gives the same logits as
        the first time.
        """
        place = bisect_right(self.runs, (self.computed, sys.maxsize)) - 1
        return max(self.runs[place][1] - self.computed, 1) if place >= 0 else 1

    @property
    def prefilling(self) -> bool:
        """Whether some of its prompt is still to be computed, or put back from host memory."""
        return self.computed < len(self.prompt) or bool(self.loads)

    @property
    def unread(self) -> int:
        """Prompt tokens that are not in the context yet."""
        return max(len(self.prompt) - self.computed, 0)

    def append(self, token: int) -> None:
        """Take a generated token."""
        self.tokens.append(token)

    def end_run(self, start: int) -> None:
        """The next token will be sampled; those from `start` on are computed together."""
        if len(self.tokens) - start > 1:
            self.runs.append((start, len(self.tokens)))

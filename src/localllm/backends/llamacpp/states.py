"""Between the engine's cache and the files of saved sessions."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from localllm.backends.llamacpp.token_model import Compute
from localllm.engine.engine import Engine
from localllm.engine.state import Cells, Job, StateExport, StateImport
from localllm.errors import LocalLLMError, SessionFileError
from localllm.saved.state import StateBlock, StateHead, StateUse, append_state, read_state

_PART_TOKENS = 128
"""Tokens asked for at once, for which the engine stops between two steps: some 2 ms of a model of 135M parameters, and
a hundred times as long where the cells of several chats lie mixed."""

_PART_BLOCKS = 8

_F = TypeVar("_F")


def state_format(compute: Compute) -> str:
    """Return how contexts with these settings write cells: what another build or another kind of cache cannot read."""
    attention = "flash" if compute.flash_attention else "plain"
    build = f"llama.cpp of llama-cpp-python {version('llama-cpp-python')}"
    return f"{build}, {compute.kv_type}, {attention} attention, {compute.rope}"


class StateFiles:
    """Writes states of one model into files, and takes them from there.

    Args:
        engine: Has the cache.
        model_hash: The model that computes the states.
        form: How it writes cells; only an engine with the same `form` can read them.
    """

    def __init__(self, engine: Engine, model_hash: str, form: str) -> None:
        self._engine = engine
        self._hash = model_hash
        self._form = form

    def save(self, tokens: Sequence[int], path: Path, offset: int) -> StateUse:
        """Write what is cached of `tokens`; see `LoadedModel.save_state`."""
        prompt = array("i", tokens)
        parts = self.parts(prompt)
        first = next(parts, None)
        if first is None:
            return StateUse(why="nothing of this conversation is cached")

        def blocks() -> Iterator[StateBlock]:
            yield from (StateBlock(*cells) for cells in first)
            for part in parts:
                yield from (StateBlock(*cells) for cells in part)

        try:
            saved = append_state(path, offset, StateHead(self._form, self._hash, tuple(tokens)), blocks())
        except OSError as exc:
            raise SessionFileError(f"the state cannot be written to {path}: {exc}") from exc
        return StateUse(saved, "" if saved == len(tokens) else f"{saved} of {len(tokens)} tokens were cached")

    def load(self, path: Path) -> StateUse:
        """Take the state from a session's file; see `LoadedModel.load_state`."""
        try:
            found = read_state(path)
            if found is None:
                return StateUse(why="the file holds no state")
            head, blocks = found
            if head.model_hash != self._hash:
                return StateUse(why="the state is another model's")
            if head.format != self._form:
                return StateUse(why=f"the state was written as {head.format!r}, and this model reads {self._form!r}")
            return self.take(array("i", head.tokens), blocks)
        except LocalLLMError:
            raise
        except OSError as exc:
            raise SessionFileError(f"the state cannot be read from {path}: {exc}") from exc

    def take(self, prompt: array[int], blocks: Iterator[StateBlock]) -> StateUse:
        """Put a prompt's cells into host memory, as many at once as an engine's step is to stop for.

        Raises:
            ClosedError: The model is closed.
        """
        there = 0
        while part := [(block.start, block.stop, block.data) for block in islice(blocks, _PART_BLOCKS)]:
            begins = [there, *(stop for _, stop, _ in part)]
            if any(start != before for (start, _, _), before in zip(part, begins, strict=False)):
                return StateUse(there, "the blocks of the state are out of order")
            count = self._ask(partial(StateImport, prompt, part))
            there = part[count - 1][1] if count else there
            if count < len(part):
                return StateUse(there, "there is no room for more of it within ModelConfig(cache_ram_bytes=...)")
        return StateUse(there, "" if there == len(prompt) else f"it was saved for {there} of {len(prompt)} tokens")

    @property
    def block_tokens(self) -> int:
        """Tokens of a block: all but a prompt's last one have as many."""
        return self._engine.block_tokens

    def parts(self, prompt: array[int], most: int = _PART_TOKENS, *, start: int = 0) -> Iterator[list[Cells]]:
        """Yield what is cached of a prompt, read as it is asked for; ends where nothing more is cached.

        Args:
            prompt: The prompt.
            most: Tokens that are read at once.
            start: Where to begin: at the beginning of a block.

        Raises:
            ClosedError: The model is closed.
        """
        while part := self._ask(partial(StateExport, prompt, start, most)):
            start = part[-1][1]
            yield part

    def _ask(self, make: Callable[[Callable[[_F], None]], Job]) -> _F:
        """Have the engine do something, and wait for what it tells."""
        told: SimpleQueue[_F] = SimpleQueue()
        self._engine.post(make(told.put))
        return told.get()

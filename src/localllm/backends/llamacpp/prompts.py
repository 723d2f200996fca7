"""What was computed of long system prompts, on disk: brought when a request begins with one, kept when one was read.

A thread of its own reads, verifies and writes files. It speaks to the engine by the same jobs as saved sessions do,
between steps; requests that need what is in a file wait for it in the engine, and nobody else does.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from attrs import define, frozen

from localllm.backends.base import GenerateRequest, Sink
from localllm.chat.lru import Lru
from localllm.engine.prefix_cache import common_prefix
from localllm.engine.state import Cells
from localllm.engine.stored import Stored
from localllm.errors import LocalLLMError
from localllm.options import ModelConfig
from localllm.saved.prompt_folder import PromptFolder, PromptTooLargeError, StoredPrompt
from localllm.saved.state import StateBlock, StateUse
from localllm.types import BackendEvent, PromptProgress

_log = logging.getLogger("localllm.prompts")

LEAST_TOKENS = 256
"""Tokens from which on a system prompt is worth a file: half a second of reading here, some MB."""

_PART_TOKENS = 128
"""Tokens copied out of the engine between two of its steps: some 2 ms of a model of 135M parameters."""

_OPENINGS = 64
_CLOSE_S = 2.0

Opening: TypeAlias = Callable[[GenerateRequest], Sequence[int]]
"""Tells the tokens with which all conversations with a request's system message and tools begin."""


class States(Protocol):
    """The engine's cache, as far as it is needed here."""

    @property
    def block_tokens(self) -> int:
        """Tokens of a block: all but a prompt's last one have as many."""

    def parts(self, prompt: array[int], most: int, *, start: int = 0) -> Iterator[list[Cells]]:
        """Yield what is cached of a prompt from `start` on, `most` tokens at once."""

    def take(self, prompt: array[int], blocks: Iterator[StateBlock]) -> StateUse:
        """Put a prompt's cells into host memory."""


@define
class _Known:
    """The opening of some conversations, and whether it is to be kept."""

    tokens: array[int]
    keep: bool = True


class _Incomplete(Exception):
    """The engine does not have all of a prompt any more, or there is no more time."""


@frozen
class _Found:
    """A `Stored` prompt in a file."""

    cache: PromptCache
    prompt: StoredPrompt

    @property
    def tokens(self) -> int:
        """How many tokens of the request's prompt it has."""
        return self.prompt.tokens

    def fetch(self, done: Callable[[bool], None]) -> None:
        """Have it brought."""
        self.cache.fetch(self.prompt.name, done)


class PromptCache:
    """Brings stored prompts into an engine, and stores those that it has read.

    Args:
        states: The engine's cache.
        folder: Where the files are.
        opening: Says what of a request's prompt is worth keeping.
        limit_bytes: Bytes that one prompt may take.
        least_tokens: Tokens from which on a system prompt is kept.
    """

    def __init__(
        self,
        states: States,
        folder: PromptFolder,
        opening: Opening,
        limit_bytes: int,
        *,
        least_tokens: int = LEAST_TOKENS,
    ) -> None:
        self._states = states
        self._folder = folder
        self._opening = opening
        self._limit_bytes = limit_bytes
        self._least = least_tokens
        self._openings: Lru[tuple[str, ...], _Known] = Lru(_OPENINGS)
        self._writes = True  # until that fails
        self._waiting: dict[str, list[Callable[[bool], None]]] = {}
        self._lock = threading.Lock()  # for `_waiting`
        self._close_by_s: float | None = None
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._work.put(partial(folder.find, array("i")))  # the files' heads are read before the first request comes
        self._thread = threading.Thread(target=self._run, name="localllm-prompts", daemon=True)
        self._thread.start()

    def find(self, tokens: Sequence[int]) -> Stored | None:
        """Return what is stored of a prompt, if it is worth bringing; takes microseconds."""
        found = self._folder.find(array("i", tokens)) if len(tokens) >= self._least else None
        if found is None or found.tokens < self._least or found.size_bytes > self._limit_bytes:
            return None
        return _Found(self, found)

    def watching(self, request: GenerateRequest, tokens: Sequence[int], sink: Sink) -> Sink:
        """Return a sink like `sink` for a request that is about to begin; once its prompt is read, it may be stored."""
        has_opening = request.messages[0].role == "system" or bool(request.tools)
        if not has_opening or len(tokens) < self._least or not self._writes:
            return sink
        told = False

        def watched(event: BackendEvent) -> None:
            nonlocal told
            if not told and isinstance(event, PromptProgress) and event.processed_tokens >= event.total_tokens:
                told = True
                self._work.put(partial(self._keep, request, array("i", tokens)))
            sink(event)

        return watched

    def fetch(self, name: str, done: Callable[[bool], None]) -> None:
        """Bring a file's prompt into host memory; those who ask meanwhile wait for the same."""
        with self._lock:
            waiting = self._waiting.setdefault(name, [])
            waiting.append(done)
            if len(waiting) == 1:
                self._work.put(partial(self._bring, name))

    def close(self) -> None:
        """Store what is left, for at most two seconds, and end the thread. The engine must still be open."""
        self._close_by_s = time.monotonic() + _CLOSE_S
        self._work.put(None)
        self._thread.join(_CLOSE_S)  # on the engine's thread nothing more can be stored, and the wait is in vain

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except LocalLLMError as exc:
                _log.debug("a stored prompt is left: %s", exc)  # the model closes, or refuses the system message alone
            except Exception:  # noqa: BLE001  # a mistake of ours: no request may wait for it for ever
                _log.exception("stored prompts failed")

    def _bring(self, name: str) -> None:
        hit = False
        try:
            found = None if self._close_by_s is not None else self._folder.read(name)
            if found is not None:
                tokens, blocks = found
                hit = self._states.take(tokens, iter(blocks)).tokens > 0
        finally:
            with self._lock:
                waiting = self._waiting.pop(name)
            for done in waiting:
                done(hit)

    def _keep(self, request: GenerateRequest, prompt: array[int]) -> None:
        """Store the opening of a prompt that was read, unless it is there."""
        known = self._known(request)
        tokens = known.tokens[: common_prefix(known.tokens, prompt)]
        if len(tokens) < self._least or not known.keep:
            return
        found = self._folder.find(tokens)
        if found is not None and found.tokens + self._states.block_tokens > len(tokens):
            self._folder.touch(found.name)
            return
        if not self._writes:
            return
        try:
            self._write(tokens, known)
        except _Incomplete:
            return  # the next request has another chance
        except PromptTooLargeError as exc:  # by its head alone: see `_too_large`
            known.keep = False
            _log.warning("a system prompt is not stored: %s", exc)
        except OSError as exc:
            self._writes = False
            _log.warning("no system prompt is stored any more, until the model is loaded again: %s", exc)

    def _write(self, tokens: array[int], known: _Known) -> None:
        size = self._states.block_tokens
        whole = len(tokens) - len(tokens) % size
        # The end first: when the reply is over, an idle chat may leave for host memory, which gives whole blocks only.
        end = next(self._states.parts(tokens, size, start=whole), []) if whole < len(tokens) else []
        if not end:
            tokens = tokens[:whole]
        parts = self._states.parts(tokens[:whole], _PART_TOKENS)
        first = next(parts, [])
        if self._too_large(first, len(tokens)):
            known.keep = False
            return

        def blocks() -> Iterator[StateBlock]:
            there = 0
            for part in chain((first,), parts, (end,)):
                for start, stop, data in part:
                    if start != there or (self._close_by_s is not None and time.monotonic() > self._close_by_s):
                        raise _Incomplete
                    there = stop
                    yield StateBlock(start, stop, data)
            if there != len(tokens):
                raise _Incomplete

        self._folder.write(tokens, blocks())

    def _too_large(self, part: list[Cells], tokens: int) -> bool:
        """Whether a prompt will take too much, going by a part of its cells; says so."""
        copied = sum(stop - start for start, stop, _ in part)
        expected_bytes = sum(len(data) for _, _, data in part) * tokens // max(copied, 1)
        if expected_bytes <= self._limit_bytes:
            return False
        _log.warning(
            "a system prompt of %s tokens is not stored: it takes %s bytes, and ModelConfig allows for %s (the smaller "
            "of prompt_cache_bytes and cache_ram_bytes)",
            tokens,
            expected_bytes,
            self._limit_bytes,
        )
        return True

    def _known(self, request: GenerateRequest) -> _Known:
        """Return the opening of conversations like a request's; found out once."""
        first = request.messages[0]
        key = (
            first.content if first.role == "system" else "",
            first.role,
            json.dumps([tool.to_dict() for tool in request.tools]),
            request.options.tool_choice,
            request.options.thoughts,
        )
        known = self._openings.get(key)
        if known is None:
            known = _Known(array("i", self._opening(request)))
            self._openings.put(key, known, 1)
        return known


def prompt_folder(config: ModelConfig, form: str, model_hash: str, *, can_cut: bool) -> PromptFolder | None:
    """Return where a model's prompts are stored, or None if they are not."""
    if config.prompt_cache_dir is None:
        return None
    if not can_cut or not config.cache_ram_bytes:
        why = "cache_ram_bytes=0 leaves no way back" if can_cut else "this model's state cannot be cut"
        _log.warning("ModelConfig(prompt_cache_dir=...) has no effect: %s", why)
        return None
    return PromptFolder(config.prompt_cache_dir, config.prompt_cache_bytes, form, model_hash)

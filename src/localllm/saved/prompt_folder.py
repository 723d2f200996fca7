"""A folder of stored prompts: what a model computed of long system prompts, shared by processes, bounded in size.

A prompt's file is one of sections (see `saved/state.py`): `STAT`, `BLCK`s for all of its tokens, `END.`. It is called
after a hash of its tokens and lies in a folder that is called after a hash of the model, llama.cpp's build and the kind
of its KV cache: what other models and builds wrote is never looked at, and leaves in its turn.

Processes need no lock. A file gets its name when it is whole; two that write the same one replace it by the same; a
file that another process has removed is one that is not there. Only files of this user that nobody else may write are
read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import threading
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from attrs import frozen

from localllm.errors import DamagedSessionError
from localllm.saved.prompt_index import PromptIndex
from localllm.saved.sections import END, MAGIC, payloads_of, replaced, write_section
from localllm.saved.state import BLOCK, HEAD, StateBlock, StateHead, block_of, head_of, write_state

_log = logging.getLogger("localllm.prompts")

VERSION = 1
_NAME = re.compile(r"[0-9a-f]{32}\.prompt")
_PART = re.compile(r"\.[0-9a-f]{32}\.prompt\..*\.part")
_FOLDER = re.compile(r"[0-9a-f]{32}")
_LEFT_S = 3600.0  # a part that nobody has written to for so long was left by a process that died
_RACY_NS = 2_000_000_000  # a folder changed so lately may change again without its time telling
_HEAD_BYTES = 16 << 20
_OPEN = os.O_RDONLY
for _flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):  # each where the system has it
    _OPEN |= getattr(os, _flag, 0)


class PromptTooLargeError(Exception):
    """A prompt takes more than the whole folder may."""


@frozen
class StoredPrompt:
    """A prompt that is in the folder, or was a moment ago.

    Args:
        name: Its file's name.
        tokens: How many of its first tokens are those that were looked for.
        size_bytes: Its file's size.
    """

    name: str
    tokens: int
    size_bytes: int


class PromptFolder:
    """The prompts of one model in a folder of many. Safe from any thread, and beside other processes.

    Args:
        root: The folder; made when something is written.
        limit_bytes: Bytes that all prompts in it, of all models, may take.
        form: How the model writes cells.
        model_hash: The model.
    """

    def __init__(self, root: Path, limit_bytes: int, form: str, model_hash: str) -> None:
        self.limit_bytes: int = limit_bytes
        self._root = root
        self._form = form
        self._hash = model_hash
        self._folder = root / _digest(json.dumps([VERSION, form, model_hash]).encode())
        self._lock = threading.Lock()  # for what follows
        self._index = PromptIndex()
        self._sizes: dict[str, int] = {}
        self._seen_ns: int | None = None  # when the folder had last changed, if it was read after that

    def find(self, tokens: array[int]) -> StoredPrompt | None:
        """Return the prompt with the longest beginning in common with `tokens`, if any has enough of it.

        Costs a look at the folder's time, some microseconds, as long as nothing was written or removed.
        """
        with self._lock:
            self._refresh()
            name, length = self._index.find(tokens)
            return StoredPrompt(name, length, self._sizes[name]) if name else None

    def touch(self, name: str) -> None:
        """Mark a prompt as used now."""
        with suppress(OSError):
            os.utime(self._folder / name)

    def read(self, name: str) -> tuple[array[int], list[StateBlock]] | None:
        """Return a prompt's tokens and their cells, every byte verified; None if it is not there or cannot be used.

        What cannot be used is removed.
        """
        path = self._folder / name
        try:
            with _opened(path) as file:
                tokens, blocks = self._content(file, path)
        except DamagedSessionError as exc:
            _log.info("a stored prompt is removed: %s", exc)
            self._discard(path)
            return None
        except OSError as exc:
            _log.debug("a stored prompt cannot be read: %s", exc)
            self._forget(name)
            return None
        self.touch(name)
        return tokens, blocks

    def write(self, tokens: array[int], blocks: Iterable[StateBlock]) -> None:
        """Store a prompt, whole or not at all; those used longest ago make room. What `blocks` raises is raised.

        Raises:
            OSError: It cannot be written.
            PromptTooLargeError: It takes more than all prompts together may.
        """
        for folder in (self._root, self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        head = StateHead(self._form, self._hash, tuple(tokens))
        with replaced(self._folder / _name_of(tokens), durable=False) as file:  # readable for its owner alone
            file.write(MAGIC)
            write_state(file, head, blocks)
            write_section(file, END)
            if file.tell() > self.limit_bytes:
                raise PromptTooLargeError(f"a prompt of {len(tokens)} tokens takes {file.tell()} bytes")
            self._make_room(file.tell())

    def _refresh(self) -> None:
        """Read the heads of files that are new, and forget those that are gone."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns == self._seen_ns:
                return
            now_ns = time.time_ns()
            found = {entry.name: entry for entry in os.scandir(self._folder) if _NAME.fullmatch(entry.name)}
        except OSError:
            found, changed_ns, now_ns = {}, 0, 0
        for name in self._index.names() - found.keys():
            self._forget_now(name)
        for name in found.keys() - self._index.names():
            self._learn(name)
        self._seen_ns = changed_ns if now_ns - changed_ns > _RACY_NS else None

    def _learn(self, name: str) -> None:
        path = self._folder / name
        try:
            with _opened(path) as file:
                head = self._head(next(payloads_of(file, path, _HEAD_BYTES)), path)
                size = os.fstat(file.fileno()).st_size
        except DamagedSessionError as exc:
            _log.info("a stored prompt is removed: %s", exc)
            with suppress(OSError):
                path.unlink()
        except OSError as exc:
            _log.debug("a stored prompt cannot be read: %s", exc)
        else:
            self._index.add(name, head)
            self._sizes[name] = size

    def _content(self, file: IO[bytes], path: Path) -> tuple[array[int], list[StateBlock]]:
        payloads = payloads_of(file, path, max(self.limit_bytes, _HEAD_BYTES))
        tokens = self._head(next(payloads), path)
        blocks: list[StateBlock] = []
        for kind, payload in payloads:
            if kind == BLOCK:
                blocks.append(block_of(path, payload))
            elif kind != END:
                raise DamagedSessionError(f"{path} has an unknown section {kind!r}")
        ends = [0, *(block.stop for block in blocks)]
        starts = [*(block.start for block in blocks), len(tokens)]
        if ends != starts or any(block.start >= block.stop for block in blocks):
            raise DamagedSessionError(f"{path} does not have the cells of all of its {len(tokens)} tokens")
        return tokens, blocks

    def _head(self, section: tuple[bytes, bytes], path: Path) -> array[int]:
        kind, payload = section
        head = head_of(path, payload) if kind == HEAD else None
        if head is None or (head.format, head.model_hash) != (self._form, self._hash):
            raise DamagedSessionError(f"{path} is of another model or version")
        tokens = array("i", head.tokens)
        if _name_of(tokens) != path.name:
            raise DamagedSessionError(f"{path} holds another prompt than its name says")
        return tokens

    def _discard(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()
        self._forget(path.name)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._forget_now(name)

    def _forget_now(self, name: str) -> None:
        self._index.remove(name)
        self._sizes.pop(name, None)

    def _make_room(self, size_bytes: int) -> None:
        """Remove prompts, the one used longest ago first, until `size_bytes` more fit; also parts that were left."""
        files = sorted(_files(self._root))
        total = sum(size for _, size, _ in files) + size_bytes
        for _, size, path in files:
            if total <= self.limit_bytes:
                return
            with suppress(OSError):  # another process was first, or is reading it (Windows)
                path.unlink()
            total -= size


def _files(root: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield when each prompt was used last, its size and its path; removes parts that were left."""
    for folder in _entries(root, _FOLDER):
        for path in _entries(folder, _PART):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFT_S:
                    path.unlink()
        for path in _entries(folder, _NAME):
            with suppress(OSError):
                found = path.lstat()
                yield found.st_mtime_ns, found.st_size, path


def _entries(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if pattern.fullmatch(entry.name)]
    except OSError:
        return []


def _opened(path: Path) -> IO[bytes]:
    """Open a file for reading; raises DamagedSessionError if it is no plain one that only its owner, us, may write."""
    descriptor = os.open(path, _OPEN)
    found = os.fstat(descriptor)
    ours = not hasattr(os, "geteuid") or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)
    if not stat.S_ISREG(found.st_mode) or not ours:
        os.close(descriptor)
        raise DamagedSessionError(f"{path} is no file of this user alone")
    return os.fdopen(descriptor, "rb")


def _name_of(tokens: array[int]) -> str:
    return f"{_digest(tokens.tobytes())}.prompt"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]

"""One file from the network to the disk: resumed, hashed as it comes, and never taken for whole when it is not.

What has come lies in `NAME.part`, beside it in `NAME.part.json` of which version of the file it is a part. Both are
written so that a process may be killed at any moment: the part is emptied before the note about it changes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import assert_never

from localllm.errors import ChecksumError, DiskFullError, LocalLLMError, StoreError, WrongLengthError
from localllm.models.cancel import Cancellation
from localllm.models.hashing import RunningHash
from localllm.models.http import Answer, Http
from localllm.models.locks import write_atomically
from localllm.models.network import Network
from localllm.models.progress import Meter
from localllm.models.refs import without_secrets
from localllm.models.resume import AlreadyWhole, Body, PartState, StartOver, Unusable, Verdict, Wanted, judge, plan
from localllm.models.retry import TryAgain, retrying
from localllm.models.room import check_room, free_bytes_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Download:
    """Fetches one file into its part. Whoever calls holds the file's lock.

    Args:
        wanted: The file.
        part: Where to; its folder exists.
        http: The connections.
        network: Retries and their timing.
        meter: Told how far it is.
        cancel: Ends it.
        free_bytes: Tells the room in a folder.
    """

    def __init__(
        self,
        wanted: Wanted,
        part: Path,
        *,
        http: Http,
        network: Network,
        meter: Meter,
        cancel: Cancellation,
        free_bytes: Callable[[Path], int] = free_bytes_of,
    ) -> None:
        self._wanted = wanted
        self._part = part
        self._note = part.with_name(part.name + ".json")
        self._http = http
        self._network = network
        self._meter = meter
        self._cancel = cancel
        self._free_bytes = free_bytes
        self._hash = RunningHash()
        self._spliced = False  # whether the part comes from more than one answer

    def run(self) -> str:
        """Fetch it.

        Returns:
            The SHA-256 of the part, which now holds the whole file and has reached the disk.

        Raises:
            DownloadError: It cannot be fetched; the class says why. What had come is kept, if it can be of use.
            ModelNotFoundError: The server has no such file.
            StoreError: The part cannot be written.
        """
        with self._translated(), self._hash:
            return retrying(
                self._attempt,
                policy=self._network.retry,
                timing=self._network.timing,
                cancel=self._cancel,
                on_wait=lambda error, wait_s: self._meter.enter("retrying", f"{error}; again in {wait_s:.1f} s"),
            )

    def discard(self) -> None:
        """Throw the part away."""
        for path in (self._part, self._note):
            with suppress(FileNotFoundError):
                path.unlink()

    def _attempt(self) -> str:
        wanted = self._wanted
        ask = plan(wanted, _size(self._part), self._noted())
        if ask.complete:
            return self._finish(ask.start)
        before = _size(self._part) if ask.start else 0
        try:
            with self._http.get(wanted.url, ask.headers, wanted.name) as answer:
                size = self._obey(judge(wanted, ask, answer.status, answer.headers), answer, ask.start)
            return self._finish(size)
        except TryAgain as again:
            again.gained_bytes = _size(self._part) - before
            raise

    def _obey(self, verdict: Verdict, answer: Answer, have_bytes: int) -> int:
        """Do what the answer calls for; return how long the file is."""
        match verdict:
            case Body():
                return self._take(answer, verdict)
            case AlreadyWhole():
                return have_bytes
            case StartOver(error):
                self.discard()
                raise TryAgain(error, at_once=True)
            case Unusable(error):
                raise error
            case _:
                assert_never(verdict)

    def _take(self, answer: Answer, body: Body) -> int:
        """Write the answer's data to the part; return how long the file is."""
        total, start = body.total_bytes, body.start
        if total is not None:
            self._meter.know_total(total)
            check_room(self._part.parent, total - start, self._wanted.name, self._free_bytes)
        self._prepare(body)
        self._meter.enter("downloading")
        too_long = False
        with self._hash.writing(self._part, start):
            while count := answer.read_into(self._hash.room()):
                self._cancel.check()
                too_long = total is not None and start + count > total
                if too_long:
                    break
                self._hash.filled(count)
                start += count
                self._meter.at(start)
        if too_long:
            self.discard()
            raise WrongLengthError(f"{self._wanted.name} should have {total} bytes, and the server sends more")
        if total is not None and start < total:
            raise TryAgain(WrongLengthError(f"{self._wanted.name} has {total} bytes, and the server sent {start}"))
        return start

    def _prepare(self, body: Body) -> None:
        """Cut the part to where the data begins, note what it will be a part of, and hash what is kept."""
        self._part.touch()
        os.truncate(self._part, body.start)
        if body.start == 0:
            self._spliced = False
            state = PartState(
                source=without_secrets(self._wanted.url),
                size_bytes=body.total_bytes,
                sha256=self._wanted.sha256,
                validator=body.validator,
            )
            write_atomically(self._note, state.to_json())
        else:
            self._spliced = True
        self._catch_up(body.start)

    def _catch_up(self, end: int) -> None:
        if self._hash.done_bytes != end:
            self._meter.enter("checking")
        self._hash.catch_up(self._part, end, self._on_hashed)

    def _on_hashed(self, done_bytes: int) -> None:
        self._cancel.check()
        self._meter.at(done_bytes)

    def _finish(self, size: int) -> str:
        """Check the whole part, and see to it that it has reached the disk."""
        if self._hash.done_bytes != size:
            self._spliced = True
        self._catch_up(size)
        found = self._hash.hexdigest()
        if self._wanted.sha256 not in (None, found):
            self.discard()
            error = ChecksumError(
                f"{self._wanted.name} has the SHA-256 {found}, expected {self._wanted.sha256}: it is not the file that "
                "was announced, and was thrown away"
            )
            # Of several answers one may have been of another version; of a single one nothing better can be hoped for.
            raise TryAgain(error, at_once=True) if self._spliced else error
        with self._part.open("rb+") as file:
            os.fsync(file.fileno())
        return found

    def _noted(self) -> PartState | None:
        try:
            return PartState.from_json(self._note.read_bytes())
        except FileNotFoundError:
            return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Make what the disk does wrong ours."""
        try:
            yield
        except LocalLLMError:
            raise
        except OSError as exc:
            if exc.errno in _FULL:
                raise DiskFullError(
                    f"no room for {self._wanted.name} in {self._part.parent}: {exc.strerror}; what had come is kept. "
                    "Free some room and try again"
                ) from exc
            raise StoreError(f"cannot write {self._part}: {exc}") from exc


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""Going on with a download: what to ask the server for, and what its answer means. Pure: values in, values out.

HTTP's rules are those of RFC 9110: ranges in section 14, `If-Range` in 13.1.5, validators in 8.8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from attrs import asdict, frozen

from localllm._json import JsonValue
from localllm.errors import DownloadError, ServerError, WrongLengthError, WrongRangeError

_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>[0-9]{1,18})-(?P<end>[0-9]{1,18})|\*)/(?P<total>[0-9]{1,18}|\*)")
_STRONG_AFTER_S = 60  # between a file's change and the answer; below it, the file may change again in the same second


@frozen(kw_only=True)
class Wanted:
    """A file as it should be.

    Args:
        url: Where it is.
        name: What it is called in messages.
        size_bytes: Its size, if it is known before.
        sha256: Its checksum, if it is known before.
    """

    url: str
    name: str
    size_bytes: int | None = None
    sha256: str | None = None


@frozen(kw_only=True)
class PartState:
    """What is noted beside a `.part` file: of which version of the file it is a part.

    Args:
        source: Where it came from, without secrets.
        size_bytes: Of the whole file, if the server told.
        sha256: Of the whole file, if it was known.
        validator: What `If-Range` takes: a strong ETag or a date; empty if the server gave neither.
    """

    source: str = ""
    size_bytes: int | None = None
    sha256: str | None = None
    validator: str = ""

    def to_json(self) -> bytes:
        """Return what is written to disk."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> PartState | None:
        """Return what was written; None if it is no such thing, as after a crash of the machine."""
        try:
            value: JsonValue = json.loads(data)
        except (ValueError, RecursionError):
            return None
        match value:
            case {
                "source": str(source),
                "size_bytes": int() | None as size,
                "sha256": str() | None as sha256,
                "validator": str(validator),
            }:
                return cls(source=source, size_bytes=size, sha256=sha256, validator=validator)
            case _:
                return None


@frozen(kw_only=True)
class Ask:
    """What to ask for next.

    Args:
        start: The first byte that is missing; what is kept of the part ends before it.
        validator: What `If-Range` is sent with; empty for none.
        complete: Nothing is missing, so nothing is to be asked for.
    """

    start: int = 0
    validator: str = ""
    complete: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers."""
        if not self.start:
            return {}
        condition = {"If-Range": self.validator} if self.validator else {}
        return {"Range": f"bytes={self.start}-", **condition}


def plan(wanted: Wanted, have_bytes: int, state: PartState | None) -> Ask:
    """Decide what of a part is kept.

    It is kept if the checksum says that it is the same file, or if the server can be asked whether it is. (The Hub's
    storage sends no ETag for some files, so the checksum alone must do.)

    Args:
        wanted: The file.
        have_bytes: Bytes of the part.
        state: What is noted beside it.
    """
    if have_bytes <= 0 or state is None:
        return Ask()
    same = wanted.sha256 is not None and wanted.sha256 == state.sha256
    other = wanted.sha256 is not None and state.sha256 is not None and not same
    size = wanted.size_bytes if wanted.size_bytes is not None else state.size_bytes
    if other or not (same or state.validator) or (size is not None and have_bytes > size):
        return Ask()
    if same and have_bytes == size:
        return Ask(start=have_bytes, complete=True)
    return Ask(start=have_bytes, validator=state.validator)


@frozen(kw_only=True)
class Body:
    """The data follows.

    Args:
        start: Where in the file its first byte belongs: 0 or where the part ends.
        total_bytes: Of the whole file, if the server tells.
        validator: Of this version of the file.
    """

    start: int
    total_bytes: int | None
    validator: str


@frozen
class AlreadyWhole:
    """There is nothing behind the part: it is all."""


@frozen
class StartOver:
    """The part is of no use; ask for everything.

    Args:
        error: Why, should this happen again and again.
    """

    error: DownloadError


@frozen
class Unusable:
    """The answer is of no use, and another one would not be either.

    Args:
        error: Why.
    """

    error: DownloadError


Verdict: TypeAlias = Body | AlreadyWhole | StartOver | Unusable


def judge(wanted: Wanted, ask: Ask, status: int, headers: Mapping[str, str]) -> Verdict:
    """Say what an answer of status 200, 206 or 416 means.

    Args:
        wanted: The file.
        ask: What was asked for.
        status: The answer's status.
        headers: Its headers; looked up without regard to case.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        return Unusable(ServerError(f"the server sends {wanted.name} compressed ({encoding!r}) though asked not to"))
    if status == 200:
        return _whole(wanted, headers)
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    total = int(match["total"]) if match is not None and match["total"] != "*" else None
    if status == 416:
        return _nothing_there(wanted, ask, total)
    if ask.start == 0:
        return Unusable(WrongRangeError(f"the server sends a part of {wanted.name} (206) when asked for all of it"))
    if match is None or match["start"] is None or int(match["start"]) != ask.start:
        given = headers.get("content-range", "no range")
        return StartOver(
            WrongRangeError(f"asked for {wanted.name} from byte {ask.start}, the server sends {given!r:.80}")
        )
    expected = wanted.size_bytes
    if total is None:
        total = expected
    elif expected is not None and total != expected:
        return StartOver(_wrong_length(wanted, total))
    if total is not None and int(match["end"]) + 1 != total:
        return StartOver(WrongRangeError(f"the server sends {wanted.name} up to byte {match['end']} of {total} only"))
    return Body(start=ask.start, total_bytes=total, validator=validator_of(headers) or ask.validator)


def validator_of(headers: Mapping[str, str]) -> str:
    """Return what identifies this version of a file for `If-Range`; empty if nothing does reliably."""
    etag = headers.get("etag", "")
    if etag.startswith('"') and etag.endswith('"') and len(etag) > 2 and etag.isascii() and etag.isprintable():
        return etag
    modified, now = headers.get("last-modified", ""), headers.get("date", "")
    try:
        age_s = (parsedate_to_datetime(now) - parsedate_to_datetime(modified)).total_seconds()
    except (TypeError, ValueError):
        return ""
    return modified if age_s >= _STRONG_AFTER_S else ""


def _whole(wanted: Wanted, headers: Mapping[str, str]) -> Verdict:
    length = headers.get("content-length", "")
    total = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
    if total is not None and wanted.size_bytes is not None and total != wanted.size_bytes:
        return Unusable(_wrong_length(wanted, total))
    if total is None and "chunked" not in headers.get("transfer-encoding", "").lower() and wanted.size_bytes is None:
        return Unusable(
            WrongLengthError(f"the server does not say how long {wanted.name} is, so a cut would go unseen")
        )
    return Body(start=0, total_bytes=total if total is not None else wanted.size_bytes, validator=validator_of(headers))


def _nothing_there(wanted: Wanted, ask: Ask, total: int | None) -> Verdict:
    error = WrongRangeError(f"the server has no bytes of {wanted.name} from {ask.start} on (416)")
    if ask.start == 0:
        return Unusable(error)
    expected = wanted.size_bytes if wanted.size_bytes is not None else total
    if ask.start == total == expected and (wanted.sha256 is not None):
        return AlreadyWhole()
    return StartOver(error)


def _wrong_length(wanted: Wanted, found: int) -> WrongLengthError:
    return WrongLengthError(
        f"{wanted.name} should have {wanted.size_bytes} bytes, and the server announces {found}; "
        "if the file was replaced just now, try again"
    )

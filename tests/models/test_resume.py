"""What to ask for next, and what an answer means: values in, values out."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import ServerError, WrongLengthError, WrongRangeError
from localllm.models.hub import parse_listing
from localllm.models.resume import (
    AlreadyWhole,
    Ask,
    Body,
    PartState,
    StartOver,
    Unusable,
    Wanted,
    judge,
    plan,
    validator_of,
)

SHA, OTHER = "a" * 64, "b" * 64
WANTED = Wanted(url="https://host/x", name="x", size_bytes=100, sha256=SHA)
ANY = Wanted(url="https://host/x", name="x")


def state(*, sha256: str | None = SHA, validator: str = '"v"', size: int | None = 100) -> PartState:
    """What is noted beside a part."""
    return PartState(sha256=sha256, validator=validator, size_bytes=size)


@pytest.mark.parametrize(
    ("wanted", "have", "noted", "ask"),
    [
        (WANTED, 0, None, Ask()),
        (WANTED, 40, None, Ask()),
        (WANTED, 0, state(), Ask()),
        (WANTED, 40, state(), Ask(start=40, validator='"v"')),
        (WANTED, 40, state(validator=""), Ask(start=40)),
        (WANTED, 40, state(sha256=OTHER), Ask()),
        (WANTED, 40, state(sha256=None), Ask(start=40, validator='"v"')),
        (WANTED, 40, state(sha256=None, validator=""), Ask()),
        (WANTED, 100, state(), Ask(start=100, complete=True)),
        (WANTED, 100, state(sha256=None), Ask(start=100, validator='"v"')),
        (WANTED, 101, state(), Ask()),
        (ANY, 40, state(), Ask(start=40, validator='"v"')),
        (ANY, 40, state(sha256=None, validator=""), Ask()),
        (ANY, 101, state(sha256=None), Ask()),
        (ANY, 101, state(sha256=None, size=None), Ask(start=101, validator='"v"')),
    ],
)
def test_a_part_is_kept_only_if_it_is_known_to_be_of_the_same_file(
    wanted: Wanted, have: int, noted: PartState | None, ask: Ask
) -> None:
    """By its checksum, or by asking with If-Range; else everything is asked for."""
    assert plan(wanted, have, noted) == ask


def test_the_request_s_headers_follow() -> None:
    """A range and its condition where something is kept."""
    assert Ask().headers == {}
    assert Ask(start=4).headers == {"Range": "bytes=4-"}
    assert Ask(start=4, validator='"v"').headers == {"Range": "bytes=4-", "If-Range": '"v"'}


def ranged(text: str) -> dict[str, str]:
    """The header of a part."""
    return {"content-range": text}


@pytest.mark.parametrize(
    ("wanted", "start", "status", "headers", "kind"),
    [
        (WANTED, 0, 200, {"content-length": "100"}, Body(start=0, total_bytes=100, validator="")),
        (WANTED, 40, 200, {"content-length": "100", "etag": '"e"'}, Body(start=0, total_bytes=100, validator='"e"')),
        (WANTED, 0, 200, {}, Body(start=0, total_bytes=100, validator="")),
        (ANY, 0, 200, {"transfer-encoding": "chunked"}, Body(start=0, total_bytes=None, validator="")),
        (ANY, 0, 200, {}, WrongLengthError),
        (WANTED, 0, 200, {"content-length": "99"}, WrongLengthError),
        (WANTED, 0, 200, {"content-length": "100", "content-encoding": "gzip"}, ServerError),
        (WANTED, 40, 206, ranged("bytes 40-99/100"), Body(start=40, total_bytes=100, validator='"v"')),
        (WANTED, 40, 206, ranged("bytes 40-99/*"), Body(start=40, total_bytes=100, validator='"v"')),
        (WANTED, 40, 206, ranged("bytes 39-99/100"), WrongRangeError),
        (WANTED, 40, 206, ranged("bytes 40-98/100"), WrongRangeError),
        (WANTED, 40, 206, ranged("bytes 40-120/121"), WrongLengthError),
        (WANTED, 40, 206, ranged("40-99"), WrongRangeError),
        (WANTED, 40, 206, {}, WrongRangeError),
        (WANTED, 0, 206, ranged("bytes 0-99/100"), WrongRangeError),
        (WANTED, 100, 416, ranged("bytes */100"), AlreadyWhole()),
        (WANTED, 40, 416, ranged("bytes */100"), WrongRangeError),
        (WANTED, 100, 416, {}, WrongRangeError),
        (ANY, 100, 416, ranged("bytes */100"), WrongRangeError),
        (WANTED, 0, 416, {}, WrongRangeError),
    ],
)
def test_an_answer_is_taken_for_what_it_is(
    wanted: Wanted, start: int, status: int, headers: dict[str, str], kind: object
) -> None:
    """Data for exactly this place, the end, or an error that says what is wrong."""
    verdict = judge(wanted, Ask(start=start, validator='"v"' if start else ""), status, headers)
    if isinstance(kind, type):
        assert isinstance(verdict, StartOver | Unusable)
        assert isinstance(verdict.error, kind)
        assert isinstance(verdict, StartOver) == (start > 0)
    else:
        assert verdict == kind


@given(
    st.sampled_from([200, 206, 416]),
    st.dictionaries(st.sampled_from(["content-range", "content-length", "etag", "last-modified", "date"]), st.text()),
    st.integers(0, 120),
)
def test_whatever_the_headers_data_is_never_put_elsewhere(status: int, headers: dict[str, str], start: int) -> None:
    """Only at 0 or where the part ends, and never more than the file has."""
    verdict = judge(WANTED, Ask(start=start), status, headers)
    if isinstance(verdict, Body):
        assert verdict.start in (0, start)
        assert verdict.total_bytes in (None, 100)


def test_only_what_is_strong_goes_into_if_range() -> None:
    """A strong ETag, or a date that lies a minute back; not a weak ETag, nor what no header can carry."""
    now = 1_700_000_000
    date = formatdate(now, usegmt=True)
    old, new = formatdate(now - 60, usegmt=True), formatdate(now - 1, usegmt=True)
    assert validator_of({"etag": '"e"'}) == '"e"'
    assert validator_of({"etag": 'W/"e"'}) == ""
    assert validator_of({"etag": '"e\n"'}) == ""
    assert validator_of({"last-modified": old, "date": date}) == old
    assert validator_of({"last-modified": new, "date": date}) == ""
    assert validator_of({"last-modified": old}) == validator_of({"last-modified": "x", "date": date}) == ""


@given(st.text(), st.none() | st.integers(0), st.none() | st.text(), st.text())
def test_a_note_reads_as_it_was_written(source: str, size: int | None, sha256: str | None, validator: str) -> None:
    """Whatever is in it."""
    noted = PartState(source=source, size_bytes=size, sha256=sha256, validator=validator)
    assert PartState.from_json(noted.to_json()) == noted


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff", b'{"source": 1}', b"[" * 100_000])
def test_a_damaged_note_is_none(data: bytes) -> None:
    """And then the part is not kept."""
    assert PartState.from_json(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"sha": "../x", "siblings": []}',
        b'{"sha": "abcdef0", "siblings": [{}]}',
        b"[" * 10**5,
    ],
)
def test_an_answer_that_is_not_the_hub_s_is_told(data: bytes) -> None:
    """By name, whatever it is."""
    with pytest.raises(ServerError, match="the Hub's answer about org/repo"):
        parse_listing(data, "org/repo")


def test_the_hub_s_answer_is_read() -> None:
    """Sizes and checksums where they are told and make sense."""
    data = (
        b'{"sha": "abcdef0", "siblings": [{"rfilename": "a"}, {"rfilename": "b", "size": 3}, {"rfilename": "c", '
        b'"lfs": {"sha256": "%b", "size": 4}}, {"rfilename": "d", "size": -1, "lfs": {"sha256": "x", "size": -5}}]}'
    ) % SHA.encode()
    listing = parse_listing(data, "org/repo")
    told = [(file.name, file.size_bytes, file.sha256) for file in listing.files]
    assert told == [("a", None, None), ("b", 3, None), ("c", 4, SHA), ("d", None, None)]

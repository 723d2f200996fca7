"""The detokenizer: bytes in any portions, whole characters out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.engine.detokenizer import Detokenizer

# Bytes that are broken in interesting ways: cut characters, stray continuations, overlong forms, surrogates.
_FRAGMENTS = st.sampled_from(
    [b"a", b"\x00", b"\x80", b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x99", b"\xc0\xaf", b"\xed\xa0\x80"],
) | st.sampled_from(["é", "€", "🙂", "日本"]).map(str.encode)
_BYTES = st.lists(_FRAGMENTS | st.binary(max_size=4), max_size=30).map(b"".join)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(_BYTES, st.lists(st.integers(0, 200), max_size=40))
def test_any_portions_give_what_decoding_all_at_once_gives(data: bytes, cuts: list[int]) -> None:
    detokenizer = Detokenizer()
    text = "".join(detokenizer.push(piece) for piece in _cut(data, cuts)) + detokenizer.flush()
    assert text == data.decode("utf-8", "replace")


@given(st.text(max_size=40))
def test_valid_text_never_shows_a_replacement_character_on_the_way(text: str) -> None:
    detokenizer = Detokenizer()
    shown = ""
    for byte in text.encode():
        shown += detokenizer.push(bytes([byte]))
        assert text.startswith(shown)
    assert shown == text
    assert detokenizer.flush() == ""


def test_a_character_is_held_back_until_its_last_byte() -> None:
    detokenizer = Detokenizer()
    assert [detokenizer.push(bytes([byte])) for byte in "🙂!".encode()] == ["", "", "", "🙂", "!"]


def test_a_character_cut_off_by_the_end_becomes_one_replacement_character_and_is_then_forgotten() -> None:
    detokenizer = Detokenizer()
    assert detokenizer.push("🙂".encode()[:3]) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""
    assert detokenizer.push(b"ok") == "ok"


@pytest.mark.parametrize("piece", [b"", b"plain", "日本".encode()])
def test_whole_pieces_pass_at_once(piece: bytes) -> None:
    assert Detokenizer().push(piece) == piece.decode()

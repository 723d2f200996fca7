"""Stop strings: text passes up to the first stop, and no part of a stop is ever shown."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from localllm.engine.stop_strings import StopStrings

# Few letters, so that stops overlap with the text, with each other and with themselves.
_TEXT = st.text("ab🙂", max_size=40)
_STOPS = st.lists(st.text("ab🙂", min_size=1, max_size=5), max_size=5).map(tuple)
_CUTS = st.lists(st.integers(0, 40), max_size=40)


def _cut(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def _expected(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The specification: the text before the stop that begins first, the shortest of those that begin there."""
    found = [(text.find(stop), len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    start, _, stop = min(found)
    return text[:start], stop


@given(_TEXT, _STOPS, _CUTS)
@example("abab", ("abb", "ba"), [1, 2, 3])
@example("aab", ("aabb", "a"), [1, 2])
@example("abc", ("abcd", "bc"), [1, 2])
def test_whatever_the_portions_the_text_before_the_earliest_stop_is_delivered(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    matcher = StopStrings(stops)
    shown = "".join(matcher.push(piece) for piece in _cut(text, cuts)) + matcher.flush()
    assert (shown, matcher.met) == _expected(text, stops)


@given(_TEXT, _STOPS, _CUTS)
def test_nothing_is_shown_that_could_still_become_a_part_of_a_stop(
    text: str, stops: tuple[str, ...], cuts: list[int]
) -> None:
    matcher = StopStrings(stops)
    read = shown = ""
    for piece in _cut(text, cuts):
        read, shown = read + piece, shown + matcher.push(piece)
        before, met = _expected(read, stops)
        assert before.startswith(shown)
        if met is None:
            held = read[len(shown) :]
            longest = max(
                (n for n in range(len(read) + 1) for stop in stops if read.endswith(stop[:n]) and n <= len(stop)),
                default=0,
            )
            assert len(held) == longest, "exactly what may still become a stop is held back"


@given(_TEXT, _STOPS, _CUTS)
def test_after_a_stop_nothing_more_is_delivered(text: str, stops: tuple[str, ...], cuts: list[int]) -> None:
    matcher = StopStrings(stops)
    for piece in _cut(text, cuts):
        met = matcher.met
        shown = matcher.push(piece)
        if met is not None:
            assert shown == ""
            assert matcher.met == met
    if matcher.met is not None:
        assert matcher.flush() == ""


def test_without_stops_text_passes_untouched() -> None:
    matcher = StopStrings(())
    assert matcher.push("any text") == "any text"
    assert matcher.flush() == ""
    assert matcher.met is None


def test_the_tail_held_back_is_delivered_when_it_was_no_stop() -> None:
    matcher = StopStrings(("</s>",))
    assert [matcher.push(piece) for piece in ("a", "<", "/s", "b", "<", "/")] == ["a", "", "", "</sb", "", ""]
    assert matcher.flush() == "</"
    assert matcher.met is None


def test_a_stop_is_known_as_soon_as_its_last_character_is_there() -> None:
    matcher = StopStrings(("END", "ENDING"))
    assert matcher.push("the E") == "the "
    assert matcher.push("ND") == ""
    assert matcher.met == "END"


def test_a_complete_stop_waits_for_an_open_one_that_begins_before_it() -> None:
    matcher = StopStrings(("abcd", "bc"))
    assert matcher.push("xabc") == "x"
    assert matcher.met is None
    assert matcher.push("d") == ""
    assert matcher.met == "abcd"


def test_the_end_decides_for_a_stop_that_was_waiting() -> None:
    matcher = StopStrings(("abcd", "bc"))
    assert matcher.push("xabc") == "x"
    assert matcher.flush() == "a"
    assert matcher.met == "bc"


@pytest.mark.parametrize(("stop", "text"), [("a" * 50_000 + "b", "a" * 200_000), ("ab" * 25_000 + "c", "ab" * 100_000)])
def test_the_cost_is_linear_even_for_a_long_stop_that_almost_matches_everywhere(stop: str, text: str) -> None:
    matcher = StopStrings((stop,))
    began = time.perf_counter()
    shown = "".join([matcher.push(char) for char in text]) + matcher.flush()
    assert shown == text
    assert time.perf_counter() - began < 10, "200,000 characters take about 0.2 s; a quadratic scan takes minutes"

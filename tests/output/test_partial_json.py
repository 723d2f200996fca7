"""JSON read while it grows: certain things only, never taken back, in the end all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm._json import JsonValue
from localllm.output.partial_json import PartialJson

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_any = st.recursive(_scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


def grew(before: JsonValue, after: JsonValue) -> bool:
    """Whether `after` is `before` or goes on from it: strings by more text, containers by more members."""
    if isinstance(before, str) and isinstance(after, str):
        return after.startswith(before)
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        kept = list(before) == list(after)[: len(before)]
        return kept and all(grew(value, after[key]) for key, value in before.items())
    if isinstance(before, Sequence) and isinstance(after, Sequence) and not isinstance(before, str):
        return len(before) <= len(after) and all(map(grew, before, after))
    return before == after and type(before) is type(after)


@given(value=_any, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]), data=st.data())
def test_it_never_goes_back_and_ends_with_the_whole(
    value: JsonValue, ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    """Whatever the pieces: each snapshot goes on from the one before, and the last is what `json.loads` reads."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    reader = PartialJson()
    snapshots: list[JsonValue] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        snapshot = reader.push(text[start:end])
        if reader.begun:
            snapshots.append(snapshot)
    snapshots.append(reader.finish())
    assert not reader.broken
    assert snapshots[-1] == json.loads(text)
    assert json.dumps(snapshots[-1]) == json.dumps(json.loads(text))
    for before, after in pairwise(snapshots):
        assert grew(before, after), (before, after)


@given(value=_any, data=st.data())
def test_pieces_do_not_matter(value: JsonValue, data: st.DataObject) -> None:
    """A prefix shows the same, however it came."""
    text = json.dumps(value)
    prefix = text[: data.draw(st.integers(0, len(text)))]
    one_by_one = PartialJson()
    for char in prefix:
        one_by_one.push(char)
    assert one_by_one.value == PartialJson().push(prefix)


@given(text=st.text(st.sampled_from('{}[]",:0-.eE+tru\\u d8falsn\n 😀\ud800')))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    """What is no JSON is `broken`, and the value stays what it was; what is JSON is read as `json.loads` does."""
    reader = PartialJson()
    reader.push(text)
    value = reader.finish()
    try:
        expected: JsonValue = json.loads(text, strict=False)
    except ValueError:
        return
    assert (value, reader.broken, reader.whole) == (expected, False, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{", {}),
        ('{"na', {}),
        ('{"name"', {}),
        ('{"name":', {}),
        ('{"name": "', {"name": ""}),
        ('{"name": "Ad', {"name": "Ad"}),
        ('{"name": "Ada", "age": 3', {"name": "Ada"}),
        ('{"name": "Ada", "age": 36,', {"name": "Ada", "age": 36}),
        ('{"a": tru', {}),
        ('{"a": true', {}),
        ('{"a": true}', {"a": True}),
        ("[1, 2", [1]),
        ("[1, 2]", [1, 2]),
        ('[[], [1, {"a": [', [[], [1, {"a": []}]]),
        ('"a\\', "a"),
        ('"a\\u00', "a"),
        ('"a\\u00e9', "aé"),
        ('"\\ud83d', ""),
        ('"\\ud83d\\ude0', ""),
        ('"\\ud83d\\ude00', "😀"),
        ('"\\ud83dx', "\ud83dx"),
        ("12", None),
        ("12 ", 12),
    ],
)
def test_what_a_prefix_shows(text: str, expected: JsonValue) -> None:
    """Strings as far as they are certain, numbers and literals once they are whole, keys with their values."""
    assert PartialJson().push(text) == expected


@pytest.mark.parametrize(
    "text",
    ["}", "[1,]", '{"a" 1}', "[1 2]", "nul ", "01 ", '"\\x"', '"\\u00zz"', "{]", '{"a":1]', "1 1", "9" * 5000 + " "],
)
def test_what_is_no_json_is_broken(text: str) -> None:
    """It raises nothing; reading stops there."""
    reader = PartialJson()
    reader.push(text)
    assert reader.broken
    assert not reader.whole
    before = reader.value
    assert reader.push("{}") == before


def test_snapshots_are_independent_of_what_comes_later() -> None:
    """What one was told does not change in one's hands."""
    reader = PartialJson()
    first = reader.push('{"a": [1, ')
    second = reader.push('2, {"b": "x')
    third = reader.push('y"}]}')
    assert (first, second, third) == ({"a": [1]}, {"a": [1, 2, {"b": "x"}]}, {"a": [1, 2, {"b": "xy"}]})


def test_deep_nesting_does_not_overflow() -> None:
    """A model may open brackets for ever."""
    reader = PartialJson()
    value = reader.push("[" * 50_000)
    assert not reader.broken
    assert isinstance(value, list)


def test_reading_takes_time_in_the_length_of_the_text() -> None:
    """Of a long string, pushed in pieces without looking at it in between, each character is kept once."""
    reader = PartialJson()
    reader.push('["')
    for _ in range(20_000):
        reader.feed("word ")
    assert reader.push('"]') == ["word " * 20_000]

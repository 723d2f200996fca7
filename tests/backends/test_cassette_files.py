"""The file of a cassette: readable, the same for the same recording, whole at any time, and trusted in nothing."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm import (
    CassetteError,
    FakeBackend,
    GenerateRequest,
    Message,
    ModelInfo,
    ModelSpec,
    RecordingBackend,
    RequestOptions,
    TextDelta,
    ToolCall,
    Usage,
)
from localllm.backends.cassettes.files import VERSION, read_tapes, write_tapes
from localllm.backends.cassettes.forms import form_of, key_of, lines_of, text_of
from localllm.backends.cassettes.tape import CutCall, Interaction, Part, RecordedReply, Tape
from localllm.backends.worker.failures import to_failure
from localllm.chat.rendered import RenderedPrompt
from localllm.testing import collect
from localllm.types import TokenLogprob
from tests.worker import samples

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_CALLS = st.builds(ToolCall, name=_TEXT, arguments=st.dictionaries(st.text(max_size=5), _JSON, max_size=3), id=_TEXT)
_LOGPROBS = st.builds(TokenLogprob, st.integers(0, 99), _TEXT, st.sampled_from([-0.5, -12.25, -math.inf]))
_PARTS: st.SearchStrategy[Part] = (
    st.builds(
        TextDelta, _TEXT, st.sampled_from(["text", "thought"]), logprobs=st.lists(_LOGPROBS, max_size=2).map(tuple)
    )
    | _CALLS
    | st.builds(CutCall, _TEXT, _TEXT, _TEXT)
)
_COUNTS = st.integers(0, 2**40)
_FAILURES = samples.errors.map(to_failure)
_REPLIES = st.builds(
    RecordedReply,
    parts=st.lists(_PARTS, max_size=4).map(tuple),
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "cancelled", "timeout"]),
    usage=st.builds(Usage, prompt_tokens=_COUNTS, completion_tokens=_COUNTS, thought_tokens=_COUNTS),
    tool_calls=st.lists(_CALLS, max_size=2).map(tuple),
    notes=st.lists(_TEXT, max_size=2).map(tuple),
    taken_chars=_COUNTS,
) | st.builds(RecordedReply, finish_reason=st.just("error"), error=_FAILURES)
_REQUESTS = st.builds(
    GenerateRequest,
    messages=st.lists(st.builds(Message, st.just("assistant"), _TEXT, thought=st.none() | _TEXT), max_size=3).map(
        tuple
    ),
    options=st.builds(RequestOptions, stop=st.lists(_TEXT, max_size=2), seed=st.none() | st.integers(0, 9)),
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
)
_TAPES = st.builds(
    Tape,
    ref=_TEXT,
    config=st.just({"n_ctx": 512}) | st.just({}),
    info=st.builds(ModelInfo, name=_TEXT, n_ctx=_COUNTS, template_source=st.sampled_from(["model", "builtin"])),
    interactions=st.lists(st.builds(Interaction, st.builds(form_of, _REQUESTS), _REPLIES), max_size=3),
    prompts=st.dictionaries(_TEXT, st.builds(RenderedPrompt, _TEXT, st.lists(_COUNTS).map(tuple)), max_size=2),
    tokens=st.dictionaries(_TEXT, st.lists(_COUNTS).map(tuple), max_size=2),
    texts=st.dictionaries(st.lists(st.integers(-3, 99)).map(tuple), _TEXT | _FAILURES, max_size=2),
)


def held(tape: Tape) -> list[object]:
    """All that a tape holds."""
    return [tape.ref, tape.config, tape.info, tape.interactions, tape.prompts, tape.tokens, tape.texts]


@settings(max_examples=60, deadline=None)
@given(tapes=st.lists(_TAPES, max_size=2))
def test_what_is_written_is_read_again(tapes: list[Tape], tmp_path_factory: pytest.TempPathFactory) -> None:
    """All of it, whatever the texts; and written again it is the same bytes."""
    path = tmp_path_factory.mktemp("tapes") / "x.json"
    write_tapes(path, tapes)
    data = path.read_bytes()
    found = read_tapes(path)
    assert [held(tape) for tape in found] == [held(tape) for tape in tapes]
    write_tapes(path, found)
    assert path.read_bytes() == data


@given(value=_JSON)
def test_the_layout_is_json_of_the_same_value(value: Any) -> None:
    """And a diff shows every character of it: what does not print is escaped."""
    text = text_of(value)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()


@given(one=st.text(), other=st.text())
def test_texts_are_told_apart_by_their_lines(one: str, other: str) -> None:
    """No two texts have the same form."""
    assert (key_of(lines_of(one)) == key_of(lines_of(other))) == (one == other)
    lines = lines_of(one)
    assert one == (lines if isinstance(lines, str) else "".join(map(str, lines)))  # type: ignore[arg-type]


def small_tape() -> dict[str, Any]:
    """A cassette with one of everything, as JSON."""
    return {
        "format": "localllm cassette",
        "version": 1,
        "models": [
            {
                "model": "any",
                "config": {"n_ctx": 512},
                "info": {"name": "any", "n_ctx": 512},
                "requests": [
                    {
                        "messages": [{"role": "user", "content": ["Hi\n", "you"]}],
                        "options": {"seed": 1},
                        "reply": [
                            {"thought": "Hm."},
                            {"text": "Hi!", "logprobs": [[3, "Hi!", -0.5, [[3, "Hi!", -0.5]]]]},
                            {"call": {"id": "1", "name": "f", "arguments": {"x": 1}}},
                            {"cut_call": {"id": "2", "name": "g", "arguments": '{"x"'}},
                        ],
                        "finish_reason": "stop",
                        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                    },
                    {
                        "messages": [{"role": "user", "content": "Ho"}],
                        "reply": [],
                        "finish_reason": "error",
                        "usage": {},
                        "error": {"kind": "BackendError", "message": "boom"},
                    },
                ],
                "rendered": [{"prompt": "<Hi>", "tokens": "1 2", "of": "00"}],
                "tokenized": [{"text": "Hi", "tokens": "1"}],
                "detokenized": [{"tokens": "1", "text": "Hi"}],
            }
        ],
    }


_WRONG: dict[str, Any] = {
    "a list": lambda data: [data],
    "another format": lambda data: data | {"format": "vcr"},
    "no version": lambda data: {name: value for name, value in data.items() if name != "version"},
    "a version that is no number": lambda data: data | {"version": True},
    "an unknown name": lambda data: data | {"extra": 1},
    "models that are no list": lambda data: data | {"models": {}},
}


@pytest.mark.parametrize("wrong", _WRONG.values(), ids=_WRONG)
def test_another_json_is_refused(wrong: Any, tmp_path: Path) -> None:
    """With the file's name."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(wrong(small_tape())))
    with pytest.raises(CassetteError, match=r"x\.json"):
        read_tapes(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"{", b"null", b"[" * 200_000, b'{"a":' * 100_000, b"NaN", b"9" * 5000, b'"\\ud800"', b"{} {}"],
    ids=["empty", "no UTF-8", "cut", "null", "deep", "deeper", "NaN", "long number", "surrogate", "two values"],
)
def test_what_is_no_json_is_refused(data: bytes, tmp_path: Path) -> None:
    """Hostile files, too: an error, no crash and no long wait."""
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(CassetteError, match=r"x\.json"):
        read_tapes(path)


def test_a_newer_version_is_told(tmp_path: Path) -> None:
    """And what to do about it."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"format": "localllm cassette", "version": VERSION + 1, "tapes": {}}))
    with pytest.raises(CassetteError, match=r"written by a newer localllm .* update localllm, or record it anew"):
        read_tapes(path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """Before it is read into memory as JSON."""
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(CassetteError, match="more than 64 MiB"):
        read_tapes(path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_value_is_refused_or_read_as_what_it_says(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any value replaced by any other, or left out: a CassetteError, or a tape that can be written again."""
    tape = small_tape()
    at: Any = tape
    while True:
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    if data.draw(st.booleans()):
        del at[key]
    else:
        at[key] = data.draw(_JSON)
    path = tmp_path_factory.mktemp("damaged") / "x.json"
    path.write_text(json.dumps(tape))
    try:
        found = read_tapes(path)
    except CassetteError:
        return
    write_tapes(path, found)
    assert [held(one) for one in read_tapes(path)] == [held(one) for one in found]


def test_a_file_edited_by_hand_is_read_as_it_means(tmp_path: Path) -> None:
    """Another layout, another order of names, and a text on one line or on several."""
    path = tmp_path / "x.json"
    request = GenerateRequest(messages=(Message.user("Hi\nyou"),), options=RequestOptions(seed=1))
    tape = small_tape()
    first = tape["models"][0]["requests"][0]
    tape["models"][0]["requests"][0] = dict(reversed(first.items())) | {
        "messages": [{"content": "Hi\nyou", "role": "user"}]
    }
    for data in (small_tape(), tape):
        path.write_text(json.dumps(data, indent=7))
        one = read_tapes(path)[0].recorded[0]
        assert one.key == key_of(form_of(request))


def test_a_reader_always_finds_a_whole_file(tmp_path: Path) -> None:
    """While two recordings write it at once, again and again; nothing is left beside it."""
    path = tmp_path / "x.json"
    done = threading.Event()
    read: list[int] = []

    def write(text: str) -> None:
        backend = RecordingBackend(FakeBackend([text * 50] * 12), path)
        with backend:
            model = backend.load(ModelSpec(ref="any"))
            for count in range(12):
                collect(model, GenerateRequest(messages=(Message.user(f"{text} {count}"),)))

    def look() -> None:
        while not done.is_set():
            if path.exists():
                read.append(len(read_tapes(path)))

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=write, args=(text,)) for text in ("one ", "two ")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert set(read) == {1}
    assert len(read_tapes(path)[0].recorded) == 12
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]

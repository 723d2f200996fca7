"""`bench.harness` with real child processes, and the scenarios' parts over a system that needs no model."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from attrs import evolve
from bench.harness import Machine, measure
from bench.memory import memory_of_tree
from bench.scenarios import SCENARIOS
from bench.scenarios.base import story, words
from bench.scenarios.streams import LEAD, beside, gaps_s, percentile
from bench.systems import SYSTEMS
from bench.systems.base import Answer, OnPiece, Recorder, Setup, System, Turn, go_on
from bench.systems.native import features_of

NOWHERE = Machine(Path("there-is-no-model.gguf"), 1)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


class Script(System):
    """Answers with a letter after the other, as many as it may."""

    def __init__(self) -> None:
        super().__init__(Setup(path=NOWHERE.path, threads=1, n_ctx=8, n_parallel=1))

    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer at once."""
        if turns[-1].text == "fail":
            raise RuntimeError("no answer to this")
        recorder = Recorder(on_piece)
        for _ in range(max_tokens):
            if not recorder.add("a"):
                break
        return recorder.answer()

    def about(self) -> list[str]:
        """Nothing to say."""
        return []

    def close(self) -> None:
        """Nothing to free."""


def test_a_child_runs_the_rounds_that_count() -> None:
    """A scenario without a model gives one figure for each round, in a process of its own."""
    result = measure(BY_NAME["import"], ("localllm", "xllamacpp"), 2, NOWHERE)
    assert [set(figures) for figures in result.figures["localllm"]] == [{"import"}, {"import"}]
    assert list(result.figures) == ["localllm"]


def test_a_system_that_fails_leaves_with_a_note() -> None:
    """The harness goes on, and the note has the system, the scenario and the reason."""
    result = measure(evolve(BY_NAME["single"], systems=("localllm",)), SYSTEMS, 2, NOWHERE)
    assert result.figures == {"localllm": []}
    assert "localllm left 'single' in round 0" in result.notes[-1]
    assert NOWHERE.path.name in result.notes[-1]


def test_a_child_that_dies_leaves_with_its_last_words() -> None:
    """Its exit and the last line it wrote are the note."""
    result = measure(evolve(BY_NAME["import"], name="no such scenario"), SYSTEMS, 1, NOWHERE)
    assert result.figures == {"localllm": []}
    assert "exit status 1" in result.notes[-1]


def test_scenarios_name_known_systems_and_bounds_that_can_be_told() -> None:
    """Every bound is on a system that takes part, and names and keys are unique."""
    assert len(BY_NAME) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert scenario.systems[0] == "localllm"
        assert set(scenario.systems) <= set(SYSTEMS)
        assert len({measure.key for measure in scenario.measures}) == len(scenario.measures)
        named = {bound.of for measure in scenario.measures for bound in measure.bounds}
        assert named - {None} <= set(scenario.systems)


def test_a_stream_ends_some_pieces_after_what_was_done_beside_it() -> None:
    """It has begun before the action, and goes on for a while after it."""
    seen: list[int] = []
    gate = threading.Event()

    class Paced(Script):
        def answer(
            self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
        ) -> Answer:
            def watched(count: int) -> bool:
                seen.append(count)
                goes_on = on_piece(count)
                if count == LEAD:
                    gate.wait()  # else the stream is over before the action is
                return goes_on

            return super().answer(turns, max_tokens, on_piece=watched, endless=endless)

    def action() -> int:
        gate.set()
        return seen[-1]

    answer, begun = beside(Paced(), story("1"), 10**6, action)
    assert begun >= LEAD
    assert answer.tokens >= LEAD + 1


def test_a_stream_that_fails_or_ends_early_is_an_error() -> None:
    """What was done beside nothing is no measurement."""
    with pytest.raises(RuntimeError, match="no answer to this"):
        beside(Script(), [Turn("user", "fail")], 100, lambda: None)
    with pytest.raises(RuntimeError, match="ended after 20 tokens"):
        beside(Script(), story("1"), 20, _wait_for_readers)


def test_an_error_of_one_of_several_chats_is_raised() -> None:
    """The others' answers don't hide it."""
    assert [answer.tokens for answer in Script().answer_all([story("1"), story("2")], 5)] == [5, 5]
    with pytest.raises(RuntimeError, match="no answer to this"):
        Script().answer_all([story("1"), [Turn("user", "fail")]], 5)


def test_gaps_are_those_that_overlap_the_time_asked_for() -> None:
    """The gap within which the time begins counts, and so does the one within which it ends."""
    assert gaps_s([0.0, 1.0, 3.0, 6.0, 10.0], 1.5, 3.5) == [2.0, 3.0]
    assert gaps_s([0.0, 1.0], 1.0, 2.0) == []


def test_a_percentile_lies_between_neighbours() -> None:
    """Interpolated, so that of few values it is not simply the greatest."""
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.99) == pytest.approx(9.9)
    assert percentile([7.0], 0.99) == 7.0


def test_texts_of_different_rounds_differ_from_the_first_word() -> None:
    """No round profits from what another left in a cache."""
    assert words(5, "a").split()[1] != words(5, "b").split()[1]
    assert len(words(800, "a").split()) == 802


def test_memory_of_a_tree_counts_this_process() -> None:
    """Anonymous memory is part of the whole."""
    taken = memory_of_tree(os.getpid())
    assert 0 < taken.anonymous_bytes < taken.pss_bytes


def test_features_are_those_that_are_on() -> None:
    """llama.cpp's line on itself, without its labels."""
    assert features_of("CPU : SSE3 = 1 | AVX = 0 | OPENMP = 1 | ") == "SSE3, OPENMP"


def _wait_for_readers() -> None:
    """Return when no other thread of this test is left."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()

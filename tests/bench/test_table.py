"""`bench.table`: medians, ratios, and whether what must hold does."""

from __future__ import annotations

import pytest
from bench.table import Bound, Measure, Result, markdown, notes, verdict
from hypothesis import given
from hypothesis import strategies as st

RATE = Measure("rate", "one stream", "tok/s", (Bound(">=", 0.98, "bare loop"),))
GAP = Measure("gap", "longest gap", "ms", (Bound("<=", 0.05, "peer"), Bound("<=", 100.0)))


@pytest.mark.parametrize(
    ("bound", "figure", "other", "holds"),
    [
        (Bound("<=", 100.0), 100.0, None, True),
        (Bound("<=", 100.0), 100.1, None, False),
        (Bound(">=", 0.98, "peer"), 98.0, 100.0, True),
        (Bound(">=", 0.98, "peer"), 97.0, 100.0, False),
        (Bound("<=", 0.05, "peer"), 5.0, 100.0, True),
        (Bound("<=", 0.05, "peer"), 6.0, 100.0, False),
        (Bound("<=", 0.05, "peer"), 6.0, None, None),
        (Bound("<=", 1.0, "peer"), 6.0, 0.0, False),
    ],
)
def test_a_bound_holds_of_the_figure_or_of_its_ratio(
    bound: Bound, figure: float, other: float | None, holds: bool | None
) -> None:
    """The limit belongs to what is allowed; without the other's figure nothing is said."""
    assert bound.holds(figure, other) is holds


@pytest.mark.parametrize(
    ("medians", "said"),
    [
        ({"localllm": 60.0, "peer": 2000.0}, "yes"),
        ({"localllm": 60.0, "peer": 1000.0}, "no"),
        ({"localllm": 120.0, "peer": 9000.0}, "no"),
        ({"localllm": 60.0, "peer": None}, "unknown"),
        ({"localllm": 120.0, "peer": None}, "no"),
        ({"localllm": None, "peer": 1.0}, "unknown"),
    ],
)
def test_all_bounds_of_a_measure_must_hold(medians: dict[str, float | None], said: str) -> None:
    """One that fails is enough for "no"; one that cannot be told keeps a "yes" back."""
    assert verdict(GAP, medians, "localllm") == said


def test_what_is_only_stated_has_no_verdict() -> None:
    """A measure without bounds is neither held nor missed."""
    assert verdict(Measure("us", "time", "µs"), {"localllm": 1.0}, "localllm") == "-"


@given(st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=9))
def test_a_median_is_of_the_rounds_that_have_the_figure(values: list[float]) -> None:
    """It lies between the least and the greatest, and is None for who has none."""
    result = Result("single", (RATE,), {"localllm": [{"rate": value} for value in values], "peer": []})
    median = result.median("localllm", "rate")
    assert median is not None
    assert min(values) <= median <= max(values)
    assert result.median("peer", "rate") is result.median("nobody", "rate") is result.median("localllm", "x") is None


def test_the_table_has_a_row_for_each_measure() -> None:
    """Figures with their units, ratios to the others, the bounds as text, and the verdict."""
    single = Result(
        "single",
        (RATE,),
        {"localllm": [{"rate": 130.0}, {"rate": 99.0}, {"rate": 131.2}], "bare loop": [{"rate": 132.0}]},
        ("built for AVX2.",),
    )
    interference = Result("interference", (GAP,), {"localllm": [{"gap": 0.0812}]}, ("built for AVX2.", "peer left."))
    assert markdown([single, interference], ("localllm", "bare loop")).splitlines() == [
        "| scenario | what | localllm | bare loop | by bare loop | must be | holds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| single | one stream | 130 tok/s | 132 tok/s | 0.985 | ≥ 0.98 × bare loop | yes |",
        "| interference | longest gap | 0.0812 ms | - | - | ≤ 0.05 × peer, ≤ 100 ms | unknown |",
    ]
    assert notes([single, interference]) == ["built for AVX2.", "peer left."]

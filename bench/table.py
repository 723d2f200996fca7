"""Figures become a table: medians, ratios, and whether what must hold does. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from attrs import field, frozen


@frozen
class Bound:
    """What must hold of localllm's figure, by itself or by its ratio to another system's.

    Args:
        sign: How the figure or the ratio stands to the limit.
        limit: The limit, in the measure's unit, or as a ratio.
        of: The other system; None for the figure itself.
    """

    sign: Literal["<=", ">="]
    limit: float
    of: str | None = None

    def holds(self, figure: float, other: float | None) -> bool | None:
        """Return whether it holds; None where the other system's figure is missing."""
        if self.of is not None:
            if other is None:
                return None
            figure = figure / other if other else float("inf")
        return figure <= self.limit if self.sign == "<=" else figure >= self.limit

    def text(self, unit: str) -> str:
        """Return it as people write it."""
        sign = "≤" if self.sign == "<=" else "≥"
        return f"{sign} {self.limit:g} {unit}".rstrip() if self.of is None else f"{sign} {self.limit:g} × {self.of}"


@frozen
class Measure:
    """One row of the table.

    Args:
        key: Its name among a scenario's figures.
        what: What it says.
        unit: Its unit; empty for a ratio or a count.
        bounds: What must hold; nothing where it is only stated.
    """

    key: str
    what: str
    unit: str
    bounds: tuple[Bound, ...] = ()


Figures = Mapping[str, float]
"""What one round of a scenario gives, by measure."""


@frozen
class Result:
    """All rounds of a scenario.

    Args:
        scenario: Its name.
        measures: Its rows.
        figures: Each round's figures, by system.
        notes: What a reader must know: who did not take part, and why.
    """

    scenario: str
    measures: tuple[Measure, ...]
    figures: Mapping[str, Sequence[Figures]]
    notes: tuple[str, ...] = field(default=())

    def median(self, system: str, key: str) -> float | None:
        """Return a system's median; None if it has no figure."""
        values = [figures[key] for figures in self.figures.get(system, ()) if key in figures]
        return statistics.median(values) if values else None


def verdict(measure: Measure, medians: Mapping[str, float | None], own: str) -> str:
    """Return "yes" or "no", "unknown" where a figure is missing, or "-" where nothing must hold."""
    figure = medians.get(own)
    if not measure.bounds:
        return "-"
    if figure is None:
        return "unknown"
    held = [bound.holds(figure, medians.get(bound.of) if bound.of else None) for bound in measure.bounds]
    if False in held:
        return "no"
    return "unknown" if None in held else "yes"


def markdown(results: Iterable[Result], systems: Sequence[str]) -> str:
    """Return the results as a Markdown table; the first system is ours, and ratios are its figure by another's."""
    own, *others = systems
    head = ["scenario", "what", *systems, *(f"by {name}" for name in others), "must be", "holds"]
    lines = [_line(head), _line(["---"] * len(head))]
    for result in results:
        for measure in result.measures:
            medians = {name: result.median(name, measure.key) for name in systems}
            lines.append(
                _line(
                    [
                        result.scenario,
                        measure.what,
                        *(_figure(medians[name], measure.unit) for name in systems),
                        *(_ratio(medians[own], medians[name]) for name in others),
                        ", ".join(bound.text(measure.unit) for bound in measure.bounds) or "-",
                        verdict(measure, medians, own),
                    ]
                )
            )
    return "\n".join(lines)


def notes(results: Iterable[Result]) -> list[str]:
    """Return every note once, in order."""
    return list(dict.fromkeys(note for result in results for note in result.notes))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{_number(value)} {unit}".rstrip()


def _ratio(own: float | None, other: float | None) -> str:
    return "-" if own is None or not other else _number(own / other)


def _number(value: float) -> str:
    """Three digits that matter, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"

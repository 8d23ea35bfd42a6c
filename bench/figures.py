"""One row of the bench: a figure of ours, beside a reference where there is one, and its target."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")
Key = TypeVar("Key", bound=Hashable)
What = TypeVar("What", bound=Hashable)


@dataclass
class Target:
    """What a row should reach, as a text and as a test of the row."""

    text: str
    met: Callable[["Row"], bool]


@dataclass
class Row:
    """One figure.

    Attributes:
        figure: what was measured; the group's name comes first.
        unit: of ours and of reference.
        reference: the same, measured in the same run with what we compare with; None where there is none.
    """

    figure: str
    unit: str
    ours: float
    reference: float | None
    target: Target

    @property
    def ratio(self) -> float | None:
        """Ours over the reference; None where there is no reference or it is 0."""
        return self.ours / self.reference if self.reference else None

    def as_json(self) -> dict:
        return {
            "figure": self.figure,
            "unit": self.unit,
            "ours": rounded(self.ours),
            "reference": rounded(self.reference),
            "ratio": rounded(self.ratio),
            "target": self.target.text,
            "met": self.target.met(self),
        }


def at_most(ratio: float, of: str) -> Target:
    """Ours is at most so many times the reference."""
    return Target(f"≤ {ratio:g} × {of}", lambda row: row.ratio is not None and row.ratio <= ratio)


def at_least(ratio: float, of: str) -> Target:
    """Ours is at least so many times the reference, and more than nothing."""
    return Target(f"≥ {ratio:g} × {of}", lambda row: 0 < row.ours >= ratio * (row.reference or 0))


def no_more_than(limit: float, unit: str = "") -> Target:
    """Ours is at most the limit, whatever the reference is."""
    return Target(f"≤ {limit:g} {unit}".strip(), lambda row: row.ours <= limit)


def rounded(value: float | None) -> float | None:
    """Four significant digits: no figure here is better than that."""
    return None if value is None else float(f"{value:.4g}")


def table(rows: list[Row]) -> str:
    """The rows as text, one line each."""
    cells = [["figure", "unit", "ours", "reference", "ratio", "target", "met"]]
    for row in rows:
        values = row.as_json()
        numbers = ["–" if values[key] is None else f"{values[key]:.4g}" for key in ("ours", "reference", "ratio")]
        cells.append([row.figure, row.unit, *numbers, row.target.text, "yes" if values["met"] else "NO"])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    right = (2, 3, 4)
    lines = []
    for line in cells:
        padded = [c.rjust(w) if n in right else c.ljust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def timed(action: Callable[[], T]) -> tuple[float, T]:
    """The seconds that the action took, and what it returned."""
    begun = perf_counter()
    returned = action()
    return perf_counter() - begun, returned


def in_turns(repeat: int, measures: Mapping[Key, Callable[[], T]]) -> dict[Key, list[T]]:
    """Measure A B A B …, so that a busy spell of the computer falls on all alike; all results of each."""
    taken: dict[Key, list[T]] = {name: [] for name in measures}
    for _ in range(repeat):
        for name, measure in measures.items():
            taken[name].append(measure())
    return taken


def side_by_side(repeat: int, measures: Mapping[Key, Callable[[], float]]) -> dict[Key, float]:
    """Measure in turns; the median of each."""
    return {name: median(values) for name, values in in_turns(repeat, measures).items()}


def all_side_by_side(
    repeat: int, measures: Mapping[Key, Callable[[], Mapping[What, float]]]
) -> dict[Key, dict[What, float]]:
    """The same where each measure takes several figures at once, the same ones each time."""
    return {
        name: {what: median(result[what] for result in results) for what in results[0]}
        for name, results in in_turns(repeat, measures).items()
    }

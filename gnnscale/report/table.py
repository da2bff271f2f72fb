"""A table before it has a format: cells keep their numbers, so that CSV can hold them whole."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gnnscale.report.compare import mean_std
from gnnscale.report.measures import GENERAL, Measure

NEAR = "≈"
SPREAD = ("", " std", " n")


@dataclass(frozen=True)
class Cell:
    """What one reads, and the numbers behind it, the mean first."""

    text: str = "-"
    numbers: tuple[float | None, ...] = ()
    best: bool = False
    near: bool = False

    @property
    def mean(self) -> float | None:
        """The first number."""
        return self.numbers[0] if self.numbers else None


@dataclass(frozen=True)
class Column:
    """A header; ``numbers`` name the cells' numbers in CSV; ``always``: kept though empty."""

    header: str
    numbers: tuple[str, ...] = ()
    always: bool = True
    left: bool = False


@dataclass
class Table:
    """A title, columns, lines of cells, and the notes that belong below."""

    title: str
    columns: list[Column]
    lines: list[list[Cell]]
    notes: list[str] = field(default_factory=list)

    def narrowed(self) -> "Table":
        """Without the columns that nobody asked for and in which nothing was measured."""
        keep = [j for j, column in enumerate(self.columns)
                if column.always or any(line[j].text != "-" for line in self.lines)]  # fmt: skip
        return Table(
            self.title,
            [self.columns[j] for j in keep],
            [[line[j] for j in keep] for line in self.lines],
            self.notes,
        )


def cell(values: Mapping[int, float], measure: Measure) -> Cell:
    """mean ± sample standard deviation over seeds; a value that never varies stands alone."""
    if not values:
        return Cell()
    mean, std = mean_std(list(values.values()))
    text = measure.form.format(mean)
    if std is not None and (std > 0 or measure.score):
        fixed = f"{text} ± {measure.form.format(std)}"
        text = _spread(mean, std) if measure.form == GENERAL else fixed
    return Cell(text, (mean, std, len(values)))


def _spread(mean: float, std: float) -> str:
    """Both to the second digit of the deviation that counts: 0.01558 ± 0.00087."""
    digits = 1 - math.floor(math.log10(std))
    if not 0 <= digits <= 6:
        return f"{mean:.4g} ± {std:.2g}"
    return f"{mean:,.{digits}f} ± {std:.{digits}f}"


def crown(cells: Sequence[Cell], measure: Measure) -> list[Cell]:
    """The best mean marked; all of those that read the same, when one of them is the best.

    Nothing is marked where there is nothing to compare or no direction is better.
    """
    means = [c.mean for c in cells if c.mean is not None]
    if measure.better == 0 or len(means) < 2:
        return list(cells)
    top = max(means) if measure.better > 0 else min(means)
    shown = measure.form.format(top)
    return [replace(c, best=c.mean is not None and measure.form.format(c.mean) == shown)
            for c in cells]  # fmt: skip

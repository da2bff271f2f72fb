"""What all figures share: a sheet with its caption, short labels, and the range worth showing."""

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gnnscale.report import style
from gnnscale.report.rows import Row


@dataclass
class Drawing:
    """A matplotlib figure, the name of its file, and its caption."""

    name: str
    figure: Any
    caption: str


def short(rows: Sequence[Row]) -> dict[int, str]:
    """Labels (by ``id`` of the row) without the words that all of them share.

    A parameter goes by its last name where that is no other parameter's (``hidden=8``).
    """
    words = [row.label.split() for row in rows]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    keys = {w.partition("=")[0] for own in words for w in own if "=" in w}
    lasts = [k.rpartition(".")[2] for k in keys]

    def brief(word: str) -> str:
        key, equals, value = word.partition("=")
        last = key.rpartition(".")[2]
        return f"{last}={value}" if equals and lasts.count(last) == 1 else word

    found = {}
    for row, own in zip(rows, words, strict=True):
        left = [brief(w) for w in own if w not in shared]
        found[id(row)] = " ".join(left) or str(row.choices.get("architecture") or row.label)
    return found


def figure(width: float, height: float) -> Any:
    """An empty sheet, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained", dpi=100)
    FigureCanvasAgg(made)
    return made


def captioned(sheet: Any, caption: str) -> None:
    """Write the caption below, in the figure itself, so that it goes where the figure goes."""
    width = int(sheet.get_size_inches()[0] * 17)
    sheet.supxlabel(textwrap.fill(caption, width), x=0.01, ha="left", fontsize=7.5,
                    color=style.INK)  # fmt: skip


def floor(values: Sequence[float]) -> float | None:
    """Where to cut an axis so that far-off low values don't flatten the rest; None: nowhere.

    Tukey's far fence, Q1 - 3 (Q3 - Q1), with quartiles at least a point apart.
    """
    if len(values) < 4:
        return None
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    fence = q1 - 3 * max(q3 - q1, 1.0)
    return fence if min(values) < fence else None

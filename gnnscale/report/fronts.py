"""Figures: a cost against the test score, with the front that no other row beats."""

from collections.abc import Sequence
from typing import Any

from gnnscale.report import labels, style
from gnnscale.report.canvas import Drawing, captioned, figure, floor, short
from gnnscale.report.measures import FIXED, Measure
from gnnscale.report.pareto import front
from gnnscale.report.rows import Row
from gnnscale.report.scores import Section
from gnnscale.report.table import Cell, cell

NAMED, BARRED = 16, 60
"""How many dominated points get a name; up to how many points all have names and error bars."""


def draw(section: Section, cost: Measure) -> Drawing | None:
    """Test score against a cost; the front as a step line, what it dominates in grey.

    None where fewer than two rows have been measured, or all cost the same.
    """
    done = [row for row in section.rows if row.records]
    score, names = FIXED["test"].told(section.metric), short(done)
    sign = score.better
    both = [(row, cell(cost.values(row), cost), cell(score.values(row), score)) for row in done]
    both = [entry for entry in both if entry[1].mean is not None]
    rows = [row for row, _, _ in both]
    points = [(c.mean or 0.0, s.mean or 0.0) for _, c, s in both]
    if len({x for x, _ in points}) < 2:
        return None
    best = front([(x, sign * y) for x, y in points])
    canvas = figure(6.4, 4.4)
    axes = canvas.subplots()
    low = floor([y for _, y in points]) if sign > 0 else None
    shown = [(x, y if low is None else max(y, low)) for x, y in points]
    below = [i for i, (x, y) in enumerate(points) if shown[i] != (x, y)]
    lost = _LOST if len(rows) <= BARRED else {**_LOST, "fmt": ".", "markersize": 4}
    others = sorted(set(range(len(rows))) - set(best), key=lambda i: -sign * points[i][1])
    for which, look in ((others, lost), (best, _FRONT)):
        for group, marker in (([i for i in which if i not in below], None),
                              ([i for i in which if i in below], "v")):  # fmt: skip
            if group:
                _points(
                    axes,
                    group,
                    both,
                    shown,
                    {**look, **({"fmt": marker, "clip_on": False, "capsize": 0} if marker else {})},
                )
    _limits(axes, points, shown, low)
    if sign < 0:
        axes.invert_yaxis()  # better stays above
    steps = _steps(axes, [shown[i] for i in best])
    axes.plot(*zip(*steps, strict=True), "-", color=style.COLOURS[0], linewidth=1.2, zorder=1)
    axes.set(xlabel=f"{cost.title} (lower is better)", ylabel=score.title)
    canvas.suptitle(f"Pareto front: {section.title}", x=0.01, ha="left", fontsize=11)
    caption = _caption(cost, [row for row in done if not cost.values(row)], names)
    if below:
        caption += " Triangles on the bottom line lie below it; their score is in brackets."
    crowded = len(rows) > BARRED
    texts = [names[id(row)] + (f" ({points[i][1]:.1f})" if i in below else "")
             for i, row in enumerate(rows)]  # fmt: skip
    if crowded:  # numbers beside the front, their names below
        numbered = dict(zip(best, range(1, len(best) + 1), strict=True))
        caption += " " + "; ".join(f"{n}: {texts[i]}" for i, n in numbered.items()) + "."
        texts = [str(numbered.get(i, "")) for i in range(len(rows))]
    captioned(canvas, caption)
    canvas.draw_without_rendering()
    named = [] if crowded else others[:NAMED]
    obstacles = [shown[i] for i in best] if crowded else shown
    left_out = []
    for which, look in ((best, {"color": style.INK, "fontsize": 8, "fontweight": "bold"}),
                        (named, {"color": "#6E6E6E", "fontsize": 7})):  # fmt: skip
        left_out += labels.place(axes, [shown[i] for i in which], [texts[i] for i in which],
                                 avoid=obstacles, path=steps, **look)  # fmt: skip
    if left_out or len(others) > len(named):
        caption += " Points without a name are in the table."
        captioned(canvas, caption)
    return Drawing(f"pareto-{cost.name.replace('.', '-')}", canvas, caption)


_FRONT = {"color": style.COLOURS[0], "fmt": "o", "markersize": 6.5, "zorder": 4}
_LOST = {"color": style.FAINT, "fmt": "X", "markersize": 5, "zorder": 2, "markerfacecolor": "white"}


def _points(
    axes: Any, group: Sequence[int], both: Sequence[tuple[Row, Cell, Cell]],
    shown: Sequence[tuple[float, float]], look: dict[str, Any],
) -> None:  # fmt: skip
    """Markers with error bars; of very many points only the front has bars."""
    bars: dict[str, Any] = {}
    if len(both) <= BARRED or look["zorder"] == _FRONT["zorder"]:
        inside = [shown[i][1] == both[i][2].mean for i in group]
        bars = {"xerr": [both[i][1].numbers[1] or float("nan") for i in group],
                "yerr": [both[i][2].numbers[1] if ok and both[i][2].numbers[1] else float("nan")
                         for i, ok in zip(group, inside, strict=True)]}  # fmt: skip
    xs, ys = zip(*[shown[i] for i in group], strict=True)
    axes.errorbar(xs, ys, **{"capsize": 2, **bars, **look}, elinewidth=0.7, linestyle="none")


def _limits(
    axes: Any, points: Sequence[tuple[float, float]], shown: Sequence[tuple[float, float]],
    low: float | None,
) -> None:  # fmt: skip
    """A logarithmic cost where it spans more than a decade; room for labels; no score above 100."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    costs = [x for x, _ in points]
    left, right = min(costs), max(costs)
    if left > 0 and right / left > 10:
        axes.set_xscale("log")
        axes.set_xlim(left / 1.6, right * 1.9)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(left - 0.12 * (right - left), right + 0.2 * (right - left))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.6g}"))
    bottom, top = min(y for _, y in shown), max(y for _, y in shown)
    room = 0.16 * max(top - bottom, 0.5)
    limits = (bottom - (room if low is None else 0), top + room)
    axes.set_ylim(*limits)
    axes.set_yticks([t for t in axes.get_yticks() if limits[0] <= t <= max(100, top)])
    axes.set_ylim(*limits)


def _steps(axes: Any, best: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The best score to be had at a cost: from the bottom, up at each point, on to the edge."""
    path = [(best[0][0], axes.get_ylim()[0])]
    for x, y in best:
        path += [(x, path[-1][1]), (x, y)]
    return [*path, (axes.get_xlim()[1], path[-1][1])]


def _caption(cost: Measure, missing: Sequence[Row], names: dict[int, str]) -> str:
    caption = (
        "Blue discs and steps: not dominated; grey: dominated (another row costs no more "
        "and scores no worse). Error bars: ± one sample standard deviation over seeds."
    )
    if missing:
        fake = [r for r in missing if any(n.startswith("latency_ms:") for x in r.records
                                          for n in x.notes)]  # fmt: skip
        latency = "latency" in cost.name
        reason = " (fake quantization runs float kernels: its latency is not the model's)"
        shown = ", ".join(names[id(r)] for r in missing[:6])
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        caption += f" Not shown, not measured: {shown}{more}{reason if latency and fake else ''}."
    return caption

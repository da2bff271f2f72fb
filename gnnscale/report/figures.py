"""Figures of one section: learning curves, bars and Pareto fronts, each with its caption inside."""

from collections.abc import Callable, Sequence

from gnnscale.core.metrics import scale_of
from gnnscale.report import curves as epochs
from gnnscale.report import fronts, style
from gnnscale.report.canvas import Drawing, captioned, figure, floor, short
from gnnscale.report.measures import FIXED, Measure
from gnnscale.report.rows import Row
from gnnscale.report.scores import Section
from gnnscale.report.table import cell

CURVES, BARS = 8, 30
"""How many lines and bars a figure can hold and still be read."""


def _best(rows: Sequence[Row], measure: Measure, most: int) -> list[Row]:
    """At most so many rows, the best by a measure, in the order they came in."""
    means = {id(row): cell(measure.values(row), measure).mean for row in rows}
    known = [row for row in rows if means[id(row)] is not None]
    kept = {id(row) for row in sorted(known, key=lambda r: -(means[id(r)] or 0.0))[:most]}
    return [row for row in known if id(row) in kept]


def _chosen(shown: int, of: int) -> str:
    """What to say when rows were left out. They are chosen by validation, never by test score."""
    if shown == of:
        return ""
    return f" The {shown} of {of} rows that are best on validation; choose others with --where."


def curves(section: Section) -> Drawing | None:
    """Validation score by epoch and by training time, and loss by epoch; bands are ± one std."""
    best = _best(section.rows, FIXED["valid"].told(section.metric), CURVES)
    read = {id(row): epochs.of(row) for row in best}
    rows = [row for row in section.rows
            if id(row) in read and epochs.curve(read[id(row)], "valid")]  # fmt: skip
    if not rows:
        return None
    names, scale = short(rows), scale_of(section.metric)
    unit = " %" if scale != 1 else ""
    sheet = figure(7.2, 5.8)
    ((score, clock), (loss, legend)) = sheet.subplots(2, 2)
    for i, row in enumerate(rows):
        look = {**style.line(i), "label": f"{names[id(row)]} (n = {len(row.done)})"}
        for axes, name, times in ((score, "valid", scale), (clock, "valid", scale),
                                  (loss, "loss", 1.0)):  # fmt: skip
            found = epochs.curve(read[id(row)], name, times)
            if found is None:
                continue
            x = found.seconds if axes is clock else found.epochs
            every = (0.04 + 0.025 * i, 0.25)
            axes.plot(x, found.mean, markevery=every if len(x) > 6 else 1, **look)
            if max(found.std) > 0:
                axes.fill_between(
                    x, [m - s for m, s in zip(found.mean, found.std, strict=True)],
                    [m + s for m, s in zip(found.mean, found.std, strict=True)],
                    color=look["color"], alpha=0.13, linewidth=0,
                )  # fmt: skip
    score.set(xlabel="epoch", ylabel=f"validation {section.metric}{unit}")
    clock.set(xlabel="training time, s", ylabel=f"validation {section.metric}{unit}")
    loss.set(xlabel="epoch", ylabel="training loss")
    legend.axis("off")
    legend.legend(*score.get_legend_handles_labels(), loc="upper left", borderaxespad=0)
    sheet.suptitle(f"Learning curves: {section.title}", x=0.01, ha="left", fontsize=11)
    caption = (
        "Mean over seeds; band: ± one sample standard deviation. Drawn up to the last epoch that "
        "every seed of the row reached. Training time leaves evaluation and preparation out; the "
        "first epoch of a process may hold compilation."
        + _chosen(len(rows), sum(bool(r.records) for r in section.rows))
    )
    captioned(sheet, caption)
    return Drawing("curves", sheet, caption)


def bars(section: Section) -> Drawing | None:
    """Test score as bars from zero, and enlarged beside them with every seed as a point."""
    done = [row for row in section.rows if row.records]
    rows = _best(done, FIXED["valid"].told(section.metric), BARS) or done[:BARS]
    if not rows:
        return None
    names, measure = short(rows), FIXED["test"].told(section.metric)
    unit = " %" if measure.scale != 1 else ""
    cells = [cell(measure.values(row), measure) for row in rows]
    means = [c.mean or 0.0 for c in cells]
    stds = [c.numbers[1] or 0.0 for c in cells]
    sheet = figure(7.2, 1.5 + 0.27 * len(rows))
    whole, zoom = sheet.subplots(1, 2, sharey=True, width_ratios=[3, 4])
    at = list(range(len(rows)))[::-1]
    higher = measure.better > 0
    top, low = (max(means), floor(means)) if higher else (min(means), None)
    for y, row, mean, std in zip(at, rows, means, stds, strict=True):
        best = mean == top
        whole.barh(
            y,
            mean,
            0.68,
            xerr=std or None,
            capsize=2.5,
            color=style.COLOURS[0] if best else "#C9D6E2",
            edgecolor=style.INK,
            linewidth=0.7,
            hatch="///" if best else None,
            error_kw={"elinewidth": 1, "ecolor": style.INK},
        )
        values = list(measure.values(row).values())
        if low is not None and mean < low:
            zoom.annotate(f"\u25c2 {mean:.2f}", (low, y), (3, 0), textcoords="offset points",
                          va="center", fontsize=8)  # fmt: skip
            continue
        zoom.errorbar(mean, y, xerr=std or None, fmt="D" if best else "o", capsize=3, markersize=5,
                      color=style.COLOURS[0] if best else style.INK, elinewidth=1)  # fmt: skip
        zoom.plot(values, [y - 0.24] * len(values), "|", color=style.FAINT, markersize=5)
    whole.set_yticks(at, [f"{names[id(r)]} (n = {len(r.records)})" for r in rows])
    right = max(100.0, top) if top > 50 and higher else None
    whole.set(xlim=(0, right), xlabel=f"test {section.metric}{unit}", title="from zero")
    zoom.set(xlabel=f"test {section.metric}{unit}", title="enlarged")
    if low is not None:
        zoom.set_xlim(left=low)
    zoom.set_ylim(-0.7, len(rows) - 0.3)
    for axes in (whole, zoom):
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    sheet.suptitle(f"Test score: {section.title}", x=0.01, ha="left", fontsize=11)
    caption = (
        "Mean ± sample standard deviation over seeds; small ticks: single seeds; hatched, diamond: "
        "the best mean."
        + ("" if low is None else " \u25c2: off the enlarged scale, with its mean.")
        + _chosen(len(rows), len(done))
    )
    captioned(sheet, caption)
    return Drawing("bars", sheet, caption)


AXES = ("latency_p50", "memory", "cuda_memory", "bytes", "epoch_s", "total_s")


def drawings(section: Section, offered: dict[str, Measure]) -> list[Drawing]:
    """Every figure that the section has the measurements for."""
    import matplotlib

    axes = [offered[name] for name in AXES]
    axes += [m for name, m in offered.items() if name.startswith("bench.") and "p50" in name]
    steps: list[Callable[[], Drawing | None]] = [lambda: curves(section), lambda: bars(section)]
    steps += [lambda cost=cost: fronts.draw(section, cost) for cost in axes]  # type: ignore[misc]
    with matplotlib.rc_context(style.SETTINGS):
        return [drawing for step in steps if (drawing := step()) is not None]

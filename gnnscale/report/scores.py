"""Flat tables: one line per composition, one table per version of the data (and per --by)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gnnscale.core.errors import UsageError, unknown
from gnnscale.report import keys, same_data
from gnnscale.report.compare import FEWEST, LEVEL, NAMES, Comparison, holm, paired
from gnnscale.report.measures import FIXED, SHOWN, Measure, find, nearest
from gnnscale.report.rows import Row, seed_text, varying
from gnnscale.report.seeds import STATES, natural
from gnnscale.report.table import NEAR, SPREAD, Cell, Column, Table, cell, crown


@dataclass
class Wish:
    """What was asked for: grouping, columns, order, baseline and tests."""

    by: Sequence[str] = ()
    show: Sequence[str] = ()
    sort: str = ""
    baseline: str = ""
    tests: Sequence[str] = ("t",)
    aliases: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Section:
    """Rows that may be compared: the same data, split and score, and the same values of --by."""

    title: str
    rows: list[Row]
    metric: str
    baseline: Row | None = None


def sections(rows: Sequence[Row], wish: Wish) -> list[Section]:
    """The rows in comparable groups, sorted, each with its baseline.

    Raises UsageError for an unknown key or a baseline that fits no row or several of one group.
    """
    by = [keys.resolve(name, rows, wish.aliases) for name in wish.by]
    found = []
    data = same_data.parts(rows)
    for part in data:
        title = same_data.name(part, data)
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in part:
            groups.setdefault(tuple(keys.value(row, key) for key in by), []).append(row)
        for values in sorted(groups, key=lambda v: [natural(x) for x in v]):
            given = [f"{k}={v}" for k, v in zip(by, values, strict=True)
                     if not (k == "dataset" and v == title)]  # fmt: skip
            metric = metric_of(groups[values])
            found.append(Section(", ".join([title, *given]), ordered(groups[values], wish, rows),
                                 metric))  # fmt: skip
    if wish.baseline:
        _set_baselines(found, rows, wish)
    return found


def metric_of(part: Sequence[Row]) -> str:
    """The name of the rows' score."""
    return next((row.records[0].metric["name"] for row in part if row.records), "score")


def ordered(part: Sequence[Row], wish: Wish, rows: Sequence[Row]) -> list[Row]:
    """By label, or by a measure (the better first) or key; ``-`` in front turns it around."""
    name = wish.sort.removeprefix("-")
    part = sorted(part, key=lambda row: natural(row.label))
    if name in ("", "label"):
        return part[::-1] if wish.sort.startswith("-") else part
    measure = find(name, rows)
    if measure is None:
        key = _key(name, rows, wish.aliases)
        return sorted(part, key=lambda row: natural(keys.value(row, key)),
                      reverse=wish.sort.startswith("-"))  # fmt: skip
    measure = measure.told(metric_of(part))
    sign = (-1 if measure.better > 0 else 1) * (-1 if wish.sort.startswith("-") else 1)
    means = {id(row): cell(measure.values(row), measure).mean for row in part}

    def place(row: Row) -> tuple[bool, float]:
        mean = means[id(row)]
        return (mean is None, 0.0 if mean is None else sign * mean)

    return sorted(part, key=place)


def _key(name: str, rows: Sequence[Row], aliases: Mapping[str, str]) -> str:
    try:
        return keys.resolve(name, rows, aliases)
    except UsageError:
        raise UsageError(nearest(name, rows, keys.known(rows))) from None


def _set_baselines(found: Sequence[Section], rows: Sequence[Row], wish: Wish) -> None:
    """The one row of each section that the selector fits; ``KEY=VALUE[,KEY=VALUE]`` or a label."""
    labels = {row.label: row for row in rows}
    if wish.baseline in labels:
        chosen = [labels[wish.baseline]]
    elif keys.CONDITION.fullmatch(wish.baseline.split(",")[0]):
        chosen = keys.select(rows, wish.baseline.split(","), wish.aliases, "--baseline")
    else:
        raise UsageError(f"--baseline: {unknown('row', wish.baseline, labels)}; or select it by "
                         "keys, e.g. --baseline architecture=gcn")  # fmt: skip
    for section in found:
        own = [row for row in section.rows if any(row is other for other in chosen)]
        if len(own) > 1:
            names = varying([row.values for row in own])
            raise UsageError(
                f"--baseline {wish.baseline}: fits {len(own)} rows of {section.title}; they differ "
                f"in {', '.join(names)}. Add one of these (key=value,key=value) or use --by"
            )
        section.baseline = own[0] if own else None


def table(section: Section, rows: Sequence[Row], wish: Wish) -> Table:
    """The section's rows with mean ± sample standard deviation, n, seeds and what is missing."""
    shown = [(name, find(name, rows)) for name in wish.show or SHOWN]
    columns, cells = [Column("composition", left=True)], [[Cell(r.label) for r in section.rows]]

    def add(column: Column, content: list[Cell]) -> None:
        columns.append(column)
        cells.append(content)

    notes: list[str] = []
    for name, measure in shown:
        if measure is None:
            key = _key(name, rows, wish.aliases)
            add(Column(key, left=True), [Cell(keys.value(row, key)) for row in section.rows])
            continue
        measure = measure.told(section.metric)
        content = crown([cell(measure.values(r), measure) for r in section.rows], measure)
        if measure.score:
            content = _near(section.rows, content, measure, wish.tests[0], notes)
        add(Column(measure.header, SPREAD, bool(wish.show)), content)
    add(Column("n"), [Cell(str(len(row.records))) for row in section.rows])
    for title, state in (("seeds", "finished"), *((s, s) for s in STATES)):
        content = [Cell(seed_text(row.numbers(state))) for row in section.rows]
        add(Column(title, always=title == "seeds", left=True), content)
    if wish.baseline:
        for column, content in _against(section, wish, notes):
            add(column, content)
    title = f"{section.title}: {section.metric}, mean ± sample standard deviation over seeds"
    lines = [list(line) for line in zip(*cells, strict=True)]
    return Table(title, columns, lines, [*_reading(section), *notes])


def _reading(section: Section) -> list[str]:
    """How to read the table, where that is not plain from it."""
    if sum(bool(row.records) for row in section.rows) < 2:
        return []
    return ["Bold or *: the best mean of a column (all that read the same)."]


def _near(
    rows: Sequence[Row], cells: list[Cell], measure: Measure, test: str, notes: list[str]
) -> list[Cell]:
    """Mark the means whose difference to the best is not significant, where that can be tested."""
    tops = [i for i, c in enumerate(cells) if c.best]
    if len(tops) != 1:
        return cells
    best = measure.values(rows[tops[0]])
    others = [i for i, c in enumerate(cells) if c.mean is not None and i != tops[0]]
    pairs = {i: paired(measure.values(rows[i]), best, (test,)) for i in others}
    adjusted = holm([c.p[test] if (c := pairs[i]) else None for i in others])
    near = {i for i, p in zip(others, adjusted, strict=True) if p is not None and p >= LEVEL}
    untested = sum(p is None for p in adjusted)
    made = len(others) - untested
    fewest = min((c.pairs for i in near if (c := pairs[i])), default=6)
    if near:
        weak = f" With {fewest} pairs only large differences show." if fewest < 6 else ""
        notes.append(
            f"{NEAR} {measure.title}: not significantly different from the best "
            f"({NAMES[test]} over shared seeds, Holm over {made} comparisons, {LEVEL:.0%}).{weak}"
        )
    if untested:
        notes.append(f"{measure.title}: {untested} rows could not be tested against the best "
                     f"(fewer than {FEWEST} shared seeds, or differences without spread); no mark "
                     "there does not mean significant.")  # fmt: skip
    return [replace(c, near=i in near) for i, c in enumerate(cells)]


def _against(section: Section, wish: Wish, notes: list[str]) -> list[tuple[Column, list[Cell]]]:
    """Difference to the baseline with its interval, pairs, and Holm-adjusted p per test."""
    base, tests = section.baseline, wish.tests
    score = FIXED["test"].told(section.metric)
    digits = 2 if score.scale != 1 else 4
    theirs = score.values(base) if base else {}
    found: list[Comparison | None] = [
        None if row is base else paired(score.values(row), theirs, tests) for row in section.rows
    ]
    difference = [
        Cell("baseline") if row is base else Cell() if c is None
        else Cell(_interval(c, digits), (c.difference, c.low, c.high))
        for row, c in zip(section.rows, found, strict=True)
    ]  # fmt: skip
    pairs = [Cell(str(c.pairs)) if c else Cell() for c in found]
    out = [
        (Column(f"Δ {score.title}", ("", " low", " high")), difference),
        (Column("pairs"), pairs),
    ]
    if base is None:
        notes.append(f"No row of this table is the baseline {wish.baseline}.")
    for test in tests:
        adjusted = holm([c.p[test] if c else None for c in found])
        made = sum(p is not None for p in adjusted)
        header = "p (t)" if test == "t" else "p (Wilcoxon)"
        out.append((Column(header, ("",)), [_p(p) for p in adjusted]))
        if base is None:
            continue
        notes.append(
            f"{header}: {NAMES[test]} of the test score against {base.label}, two-sided, "
            f"paired over shared seeds, Holm-adjusted over {made} comparisons."
        )
        fewest = min((c.pairs for c in found if c), default=6)
        if test == "wilcoxon" and fewest < 6:
            notes.append(f"With {fewest} pairs this test can't give less than "
                         f"{2 / 2**fewest:.3g} before adjustment.")  # fmt: skip
    if base is not None:
        notes.append("Δ: mean of the paired differences [95 % interval of the t distribution, not "
                     f"adjusted]; blank where fewer than {FEWEST} seeds are shared.")  # fmt: skip
    return out


def _interval(c: Comparison, digits: int) -> str:
    if c.low is None or c.high is None:
        return f"{c.difference:+.{digits}f}"
    return f"{c.difference:+.{digits}f} [{c.low:+.{digits}f}, {c.high:+.{digits}f}]"


def _p(p: float | None) -> Cell:
    if p is None:
        return Cell()
    return Cell("<0.001" if p < 0.001 else f"{p:.3f}", (p,))

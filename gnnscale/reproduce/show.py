"""Tables as cells: what is known (``--list``), and what was reached."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.report.render import render
from gnnscale.report.table import Cell, Column
from gnnscale.report.table import Table as Grid
from gnnscale.reproduce.published import Row, Table
from gnnscale.reproduce.result import Result, Tables, result, unfinished
from gnnscale.reproduce.state import GENERATED, data, missing
from gnnscale.reproduce.summary import Summary

FORMATS = ("table", "markdown", "csv", "latex")
KNOWN = ("row", "what", "dataset", "metric", "published", "verified by", "tolerance",
         "s per seed", "state here")  # fmt: skip
LEFT = ("table", "row", "what", "dataset", "verified by", "state here", "why not run here",
        "verdict", "paper")  # fmt: skip
REACHED = ("row", "dataset", "metric", "published", "ours", "difference", "n", "verdict",
           "s/epoch", "seeds")  # fmt: skip


def grid(
    title: str, headers: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> Grid:
    """Headers and cells as a table of ``gnnscale.report``, which knows the formats."""
    columns = [Column(header, left=header in LEFT) for header in headers]
    return Grid(title, columns, [[Cell(text) for text in line] for line in lines], list(notes))


def state(root: Path, table: Table, name: str, catalog: Catalog) -> str:
    """What can be done about a row here: not in this version, data absent, ready, finished."""
    row = table.rows[name]
    if lacking := missing(row, catalog):
        return f"not in this version: {', '.join(lacking)}"
    done = row.seeds - len(unfinished(root, table.name, name, range(row.seeds)))
    if done:
        return f"{done} of {row.seeds} seeds finished"
    found = data(row.dataset, catalog)
    if not found.there:
        return f"data absent: {found.short}"
    return f"ready ({GENERATED})" if found.short == GENERATED else "ready"


def cost_text(row: Row) -> str:
    """Seconds per seed; ``~`` before one that was estimated."""
    if row.cost is None:
        return "-"
    return f"{'' if row.cost.measured else '~'}{row.cost.seconds:g}"


def listing(root: Path, known: Sequence[Table], catalog: Catalog, form: str) -> str:
    """Every table with its rows."""
    headers = ("paper", *KNOWN) if form == "csv" else KNOWN  # elsewhere it is in the notes
    grids = []
    for table in known:
        lines = [
            [*([table.paper] if form == "csv" else []), name, row.label, row.dataset, row.metric,
             row.published.text(), _verified(row), tolerance(row), cost_text(row),
             state(root, table, name, catalog)]
            for name, row in table.rows.items()
        ]  # fmt: skip
        title = table.name if form == "csv" else f"{table.name}: {table.title}"
        grids.append(grid(title, headers, lines, about(table)))
    return render(grids, form)


def about(table: Table) -> list[str]:
    """Paper, systems, notes."""
    lines = [f"{table.paper}, {table.link}", f"systems: {', '.join(table.systems)}"]
    return [*lines, *([table.notes] if table.notes else [])]


def _verified(row: Row) -> str:
    p = row.published
    return "-" if p.value is None else f"{p.verified}: {p.source}"


def tolerance(row: Row) -> str:
    """How far a row may be off, in words."""
    parts = [] if row.tolerance is None else [f"{row.tolerance:g}"]
    parts += ["2 std if n < 3"] if row.few else []
    if row.against and row.against.within is not None:
        parts.append(f"{row.against.within:g} of {row.against.row}")
    return ", ".join(parts) or "not judged"


def results(
    root: Path, table: Table, names: Iterable[str], known: Tables, catalog: Catalog
) -> list[Result]:
    """What was run of a table's rows, finished or not."""
    return [result(root, table, name, known, catalog) for name in names]


def outcome(found: Sequence[Result], form: str, notes: Sequence[str] = ()) -> str:
    """Published beside ours with the verdict, then the comparisons with our own baselines."""
    table = found[0].table
    paired = [line for r in found if (line := comparison(r))]
    title = table.name if form == "csv" else f"{table.name}: {table.title}"
    whole = grid(title, REACHED, [cells(r) for r in found], [*paired, *about(table), *notes])
    return render([whole], form)


def cells(r: Result) -> list[str]:
    """One line of ``REACHED``."""
    p, ours, epoch = r.row.published, r.ours, r.ran.epoch_s
    digits = 3 if r.row.lower else 2
    gap = ours.mean - p.value if ours and p.value is not None else None
    arrow = "↓" if r.row.lower else "↑"
    return [
        r.name, r.row.dataset, f"{r.row.metric} {arrow}", p.text(),
        ours.text(digits) if ours else "-",
        "-" if gap is None else f"{gap:+.{digits}f}",
        _of(ours.n if ours else 0, p.n), r.verdict.text(),
        "-" if epoch is None else f"{epoch:.4f}", seed_text(r.ran.seeds),
    ]  # fmt: skip


def _of(n: int, published: int | None) -> str:
    """Our n, and theirs where it is known."""
    return str(n) if published is None else f"{n} ({published})"


def seed_text(seeds: Sequence[int]) -> str:
    """Seeds as a range where they are one."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds)) or "-"


def comparison(r: Result) -> str:
    """Our difference to our baseline, seed by seed, with a paired t-test; "" without one."""
    if r.row.against is None or not r.ran.seeds:
        return ""
    where, gap = f"{r.name} - {r.row.against.row}", r.gap
    if gap is None:
        return f"{where}: that row has not run on these seeds"
    if gap.std is None:
        return f"{where}: {gap.mean:+.2f} (n = 1)"
    text = f"{where}: {gap.mean:+.2f} ± {gap.std:.2f} seed by seed (n = {gap.n}"
    return f"{text}, {_significance(gap)})"


def _significance(gap: Summary) -> str:
    if gap.p is None:
        return "always the same"
    return "paired t-test p < 0.001" if gap.p < 0.001 else f"paired t-test p = {gap.p:.3f}"

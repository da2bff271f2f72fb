"""One measure laid out by two configuration keys, e.g. dataset by architecture."""

from collections.abc import Sequence

from gnnscale.core.errors import UsageError
from gnnscale.report import keys, same_data
from gnnscale.report.measures import Measure
from gnnscale.report.rows import Row, seed_text, varying
from gnnscale.report.scores import Wish
from gnnscale.report.seeds import STATES, natural
from gnnscale.report.table import SPREAD, Cell, Column, Table, cell, crown


def pivot(rows: Sequence[Row], down: str, across: str, measure: Measure, wish: Wish) -> Table:
    """One line per value of ``down``, one column per value of ``across``; in bold the best mean.

    A cell is the mean ± sample standard deviation. Bold compares what saw the same data: the cells
    of a line, or, where every column has one version of the data instead, those of a column. Each
    line states its metric, n and seeds; where they differ between its cells, the cells do. Seeds
    that failed or have not ended are listed.

    Raises UsageError if a key is unknown, if two compositions fall into one cell (the keys in which
    they differ are named), or if neither the lines nor the columns hold one version of the data.
    """
    down, across = (keys.resolve(name, rows, wish.aliases) for name in (down, across))
    place: dict[tuple[str, str], Row] = {}
    for row in rows:
        spot = (keys.value(row, down), keys.value(row, across))
        if spot in place:
            raise UsageError(_crowded(down, across, spot, rows))
        place[spot] = row
    lines = sorted({line for line, _ in place}, key=natural)
    columns = sorted({column for _, column in place}, key=natural)
    body = [[place.get((line, column)) for column in columns] for line in lines]
    metrics = {row.records[0].metric["name"] for row in rows if row.records}
    measure = measure.told(metrics.pop()) if len(metrics) == 1 else measure
    by_line = _comparable(down, lines, body, across, columns)
    cells = [[cell(measure.values(row), measure) if row else Cell() for row in line]
             for line in body]  # fmt: skip
    if by_line:
        cells = [crown(line, measure) for line in cells]
    else:
        crowned = [crown(list(column), measure) for column in zip(*cells, strict=True)]
        cells = [list(line) for line in zip(*crowned, strict=True)]
    tails = [_tail(line, columns, found) for line, found in zip(body, cells, strict=True)]
    return Table(
        f"{measure.header}, mean ± sample standard deviation over seeds",
        [Column(down, left=True), *(Column(c, SPREAD) for c in columns),
         *(Column(c, left=True, always=c != "failed and unfinished")
           for c in ("metric", "n", "seeds", "failed and unfinished"))],
        [[Cell(line), *found, *tail]
         for line, found, tail in zip(lines, cells, tails, strict=True)],
        [f"Bold or *: the best mean of a {'line' if by_line else 'column'}."] if
        measure.better and len(place) > 1 else [],
    )  # fmt: skip


def _tail(line: Sequence[Row | None], columns: Sequence[str], cells: list[Cell]) -> list[Cell]:
    """The line's metric, n, seeds and missing seeds; cells are annotated where these differ."""
    done = [row for row in line if row and row.records]
    seeds = {seed_text(row.numbers("finished")) for row in done}
    metrics = {row.records[0].metric["name"] for row in done}
    n = {str(len(row.records)) for row in done}
    for j, row in enumerate(line):
        if row and row.records and len(seeds) > 1:
            own = seed_text(row.numbers("finished"))
            text = f"{cells[j].text} (n = {len(row.records)}, seeds {own})"
            cells[j] = Cell(text, cells[j].numbers, cells[j].best)
    missing = []
    for column, row in zip(columns, line, strict=True):
        for state in STATES:
            if row and row.numbers(state):
                missing.append(f"{column}: {seed_text(row.numbers(state))} {state}")
    shared = [found.pop() if len(found) == 1 else "-" for found in (metrics, n, seeds)]
    return [Cell(text) for text in [*shared, "; ".join(missing) or "-"]]


def _crowded(down: str, across: str, spot: tuple[str, str], rows: Sequence[Row]) -> str:
    found = [r for r in rows if (keys.value(r, down), keys.value(r, across)) == spot]
    names = varying([{**r.values, **same_data.view(r)} for r in found])
    return (
        f"{down}={spot[0]} {across}={spot[1]}: {len(found)} compositions fall into this cell; they "
        f"differ in {', '.join(names)}. Choose with --where, or make --rows or --columns one of "
        "these"
    )


def _comparable(
    down: str, lines: Sequence[str], body: Sequence[Sequence[Row | None]],
    across: str, columns: Sequence[str],
) -> bool:  # fmt: skip
    """True if each line saw one version of the data, False if each column did; else refuse.

    Lines of one cell have nothing to compare: then columns, if they can be compared.
    """

    def split(groups: Sequence[Sequence[Row | None]]) -> list[int]:
        done = [[row for row in group if row and row.records] for group in groups]
        return [i for i, group in enumerate(done) if len(same_data.parts(group)) > 1]

    bad, upright = split(body), not split(list(zip(*body, strict=True)))
    alone = all(sum(bool(row and row.records) for row in line) < 2 for line in body)
    if not bad and not (alone and upright):
        return True
    if upright:
        return False
    here = [row for row in body[bad[0]] if row and row.records]
    names = same_data.differing(same_data.parts(here))
    raise UsageError(
        f"{down}={lines[bad[0]]}: its runs did not see the same data (they differ in "
        f"{', '.join(names)}), nor do the columns ({across}); train them again on one version, "
        "choose with --where, or report them apart"
    )

"""Test scores laid out by two configuration keys, e.g. dataset by architecture."""

import json
import statistics
from collections.abc import Sequence

from gnnscale.core.errors import UsageError, unknown
from gnnscale.report.table import Row, flat, seed_text, spread


def pivot(
    rows: Sequence[Row], down: str, across: str
) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """(headers, cells, bold): one line per value of ``down``, one column per value of ``across``.

    A cell is the mean ± sample standard deviation of the test score in percent; the best mean of a
    line is bold. Each line states its metric, n and seeds; where they differ between its cells, the
    cells do. Seeds that failed or are still running are listed. Keys are groups (dataset) or
    parameters (optimizer.lr).

    Raises UsageError if a key is unknown, if two compositions fall into one cell (the keys in which
    they differ are named), or if the lines' runs saw different versions of the data.
    """
    place = {(key(r, down, rows), key(r, across, rows)): [] for r in rows}  # type: ignore[var-annotated]
    for row in rows:
        place[key(row, down, rows), key(row, across, rows)].append(row)
    for (line, column), found in place.items():
        if len(found) > 1:
            raise UsageError(_crowded(down, line, across, column, found))
    lines = sorted({line for line, _ in place})
    columns = list(dict.fromkeys(column for _, column in place))
    headers = [down, *columns, "metric ↑", "n", "seeds", "unfinished"]
    cells, bold = [], set()
    for i, line in enumerate(lines):
        here = [place.get((line, column), [None])[0] for column in columns]
        done = [row for row in here if row is not None and row.records]
        _same_data(line, done)
        seeds = {seed_text([r.seed for r in row.records]) for row in done}
        metrics = {row.records[0].metric["name"] for row in done}
        if len(metrics) > 1:
            raise UsageError(f"{down}={line}: its runs are scored by {', '.join(sorted(metrics))}, "
                             "which one line can't compare; report them apart")  # fmt: skip
        texts, means = [], {}
        for j, row in enumerate(here):
            if row is None or not row.records:
                texts.append("-")
                continue
            scores = [100 * r.metric["test"] for r in row.records]
            means[j] = statistics.mean(scores)
            note = f" (n = {len(scores)}, seeds {seed_text([r.seed for r in row.records])})"
            texts.append(spread(scores) + (note if len(seeds) > 1 else ""))
        bold |= {(i, j + 1) for j, mean in means.items() if mean == max(means.values())}
        n = {str(len(row.records)) for row in done}
        failed = [f"{c}: {seed_text(r.failed)}" for c, r in zip(columns, here, strict=True)
                  if r is not None and r.failed]  # fmt: skip
        shared = [found.pop() if len(found) == 1 else "-" for found in (metrics, n, seeds)]
        cells.append([line, *texts, *shared, "; ".join(failed) or "-"])
    return headers, cells, bold


def key(row: Row, name: str, rows: Sequence[Row]) -> str:
    """The value of a group or parameter in a row's composition, as text."""
    if name in row.about:
        return str(row.about[name])
    values = flat(row.config)
    if name not in values:
        known = sorted({*row.about, *(k for r in rows for k in flat(r.config))})
        if name not in known:
            raise UsageError(unknown("key", name, known))
    return str(values.get(name, "-"))


def _crowded(down: str, line: str, across: str, column: str, found: Sequence[Row]) -> str:
    views = [{**r.about, **flat(r.config)} for r in found]
    names = sorted({k for v in views for k in v if any(v.get(k) != w.get(k) for w in views)})
    return (
        f"{down}={line} {across}={column}: {len(found)} compositions fall into this cell; they "
        f"differ in {', '.join(names)}. Give fewer run folders, or --rows or --columns one of these"
    )


def _same_data(line: str, rows: Sequence[Row]) -> None:
    """Refuse to set runs on different versions or splits of the data beside each other."""
    seen = {json.dumps(r.data, sort_keys=True, default=str): r
            for row in rows for r in row.records[:1]}  # fmt: skip
    if len(seen) > 1:
        first, second = list(seen.values())[:2]
        names = [k for k in sorted(first.data.keys() | second.data.keys())
                 if first.data.get(k) != second.data.get(k)]  # fmt: skip
        raise UsageError(
            f"{line}: its runs did not see the same data (they differ in {', '.join(names)}); "
            "train them again on one version, or report them apart"
        )

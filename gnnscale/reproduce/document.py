"""``docs/reproduction.md``, made of records alone: the same records give the same text."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.core.record import write_bytes
from gnnscale.report.render import render
from gnnscale.reproduce import show
from gnnscale.reproduce.published import Table
from gnnscale.reproduce.result import Result, Tables
from gnnscale.reproduce.verdict import FAILED, MISSED, REACHED, RULE

HEAD = """\
# Reproduction of published tables

Written by `gnnscale reproduce --document {path}` from the records of its runs; do not edit. \
`gnnscale reproduce table=NAME` runs a table, `make reproduce` everything that fits this machine, \
and `gnnscale reproduce --list` tells every table with its sources.

Published values carry a word where they were not read at their source: *quoted* by a third party, \
*unverified*. "no verified value" means that none is known for certain; then our own comparison, \
seed by seed, is all that is claimed. Ours is the mean ± sample standard deviation of the test \
score at the weights that the validation split selects. n: our seeds (and theirs, where known).

**Rule.** {rule}
"""
NOT_RUN = ("table", "row", "what", "dataset", "published", "why not run here")


def write(
    path: Path, root: Path, chosen: Sequence[Table], known: Tables, catalog: Catalog
) -> list[Result]:
    """Write the document of all records below ``root``; the results that are in it."""
    found = [r for t in chosen for r in show.results(root, t, t.rows, known, catalog)]
    text = compose(str(path), root, chosen, found, catalog)
    write_bytes(path, text.encode())
    return [r for r in found if r.records or r.failed]


def compose(
    path: str, root: Path, chosen: Sequence[Table], found: Sequence[Result], catalog: Catalog
) -> str:
    """The text."""
    ran = [r for r in found if r.records or r.failed]
    parts = [
        HEAD.format(path=path, rule=RULE),
        "## In short\n",
        *_short(ran, found),
        *_machine(ran),
    ]
    for table in chosen:
        mine = [r for r in ran if r.table.name == table.name]
        if mine:
            parts += [
                f"## {table.name}\n",
                show.outcome(mine, "markdown", [*_conditions(mine)]),
                "",
            ]
    parts += ["## Not run here\n", *_not_run(root, found, catalog)]
    return "\n".join(parts).rstrip() + "\n"


def _short(ran: Sequence[Result], found: Sequence[Result]) -> Iterator[str]:
    """Counts, and every row that was judged and is not reached, by name."""
    judged = [r for r in ran if r.verdict.state in (REACHED, MISSED, FAILED)]
    reached = [r for r in judged if r.verdict.state == REACHED]
    tables = len({r.table.name for r in found})
    yield (f"{len(found)} rows of {tables} tables are listed, {len(ran)} have run, {len(judged)} "
           f"of these are judged, {len(reached)} are reached.")  # fmt: skip
    for r in judged:
        if r.verdict.state != REACHED:
            yield f"\n- **{r.table.name}/{r.name}**: {r.verdict.text()}"
    yield ""


def _machine(ran: Sequence[Result]) -> Iterator[str]:
    """Where and with what, every distinct answer once."""
    about = [x.environment for r in ran for x in r.records]
    if not about:
        return
    devices = sorted({_hardware(a) for a in about})
    versions = sorted({", ".join(f"{k} {v}" for k, v in a["versions"].items()) for a in about})
    revisions = sorted({str(a["revision"]) for a in about})
    dates = sorted(r.started[:10] for r in ran if r.started)
    yield f"- Hardware: {'; '.join(devices)}"
    yield f"- Versions: {'; '.join(versions)}"
    yield f"- Revision of gnnscale: {', '.join(revisions)}"
    if dates:
        yield f"- Runs began: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    yield "- Seconds per epoch are medians over the epochs, averaged over the seeds; they say what"
    yield "  a row costs here and are no benchmark, since rows run side by side.\n"


def _hardware(a: dict) -> str:
    device = "" if a["device"] == "cpu" else f"{a['device']}, "
    return f"{device}{a['cpu']}, {a['threads']} of {a['cores']} cores, {a['memory_gib']} GiB"


def _conditions(mine: Sequence[Result]) -> Iterator[str]:
    """What the table's values are and how far ours may be off."""
    for r in mine:
        p, row = r.row.published, r.row
        parts = [
            row.label,
            "no verified value" if p.value is None else f"published value from {p.source}",
            f"tolerance {show.tolerance(row)}: {row.why}"
            if row.judged
            else f"not judged: {row.why}",
            f"experiment={row.experiment}",
        ]
        yield f"{r.name}: {'; '.join(parts)}"


def _not_run(root: Path, found: Sequence[Result], catalog: Catalog) -> Iterator[str]:
    lines = [
        [r.table.name, r.name, r.row.label, r.row.dataset, r.row.published.text(),
         show.state(root, r.table, r.name, catalog)]
        for r in found if not r.records and not r.failed
    ]  # fmt: skip
    if lines:
        yield render([show.grid(f"{len(lines)} rows", NOT_RUN, lines)], "markdown")
    else:
        yield "Nothing: every row that is listed has run."

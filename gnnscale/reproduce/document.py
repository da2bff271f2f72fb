"""``docs/reproduction.md``, made of records and kept figures alone: the same give the same text."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.core.record import write_bytes
from gnnscale.report.render import render
from gnnscale.reproduce import kept, show
from gnnscale.reproduce.published import Table
from gnnscale.reproduce.result import Ran, Result, Tables, baseline, ran
from gnnscale.reproduce.verdict import FAILED, MISSED, REACHED, RULE

HEAD = """\
# Reproduction of published tables

Written by `gnnscale reproduce --document {path}` from the records of its runs, and from the \
figures of earlier ones in the JSON beside it; do not edit. \
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
    """Write the document of all records below ``root`` and of what it showed before; its results.

    Raises UsageError if the figures beside it can't be read.
    """
    file = kept.load(kept.beside(path))

    @cache
    def shown(table: str, row: str) -> Ran:
        here = ran(root, known[table], row, catalog)
        return kept.better(here, kept.recall(file, known[table], row, catalog))

    found = []
    for table in chosen:
        for name, row in table.rows.items():
            home, other = baseline(table, name, known)
            theirs = shown(home.name, other) if home else Ran()
            base = {} if theirs.stale else theirs.scores
            found.append(Result(table, name, row, shown(table.name, name), base))
    done = [r for r in found if r.ran]
    write_bytes(path, compose(str(path), root, chosen, found, catalog).encode())
    kept.save(kept.beside(path), file, [(r.table, r.name, r.ran) for r in done])
    return done


def compose(
    path: str, root: Path, chosen: Sequence[Table], found: Sequence[Result], catalog: Catalog
) -> str:
    """The text."""
    ran = [r for r in found if r.ran]
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
    about = [x for r in ran for x in r.ran.environments]
    if not about:
        return
    devices = sorted({_hardware(a) for a in about})
    versions = sorted({", ".join(f"{k} {v}" for k, v in a["versions"].items()) for a in about})
    revisions = sorted({str(a["revision"]) for a in about})
    dates = sorted(r.ran.started[:10] for r in ran if r.ran.started)
    yield f"- Hardware: {'; '.join(devices)}"
    yield f"- Versions: {'; '.join(versions)}"
    yield f"- Revision of gnnscale: {', '.join(revisions)}"
    if dates:
        yield f"- Runs began: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    yield "- Seconds per epoch are medians over the epochs, averaged over the seeds; they say what"
    yield "  a row costs here and are no benchmark, since rows run side by side.\n"


def _device(a: dict) -> str:
    return a["cpu"] if a["device"] == "cpu" else a["device"]


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
            *_ran_on(r.ran),
        ]
        yield f"{r.name}: {'; '.join(parts)}"


def _ran_on(ran: Ran) -> Iterator[str]:
    """When and where a row ran, as far as known."""
    where = ", ".join(dict.fromkeys(_device(a) for a in ran.environments))
    if said := " on ".join(filter(None, (ran.started[:10], where))):
        yield said


def _not_run(root: Path, found: Sequence[Result], catalog: Catalog) -> Iterator[str]:
    lines = [
        [r.table.name, r.name, r.row.label, r.row.dataset, r.row.published.text(),
         show.state(root, r.table, r.name, catalog)]
        for r in found if not r.ran
    ]  # fmt: skip
    if lines:
        yield render([show.grid(f"{len(lines)} rows", NOT_RUN, lines)], "markdown")
    else:
        yield "Nothing: every row that is listed has run."

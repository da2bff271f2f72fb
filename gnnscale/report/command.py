"""``gnnscale report``: what was typed, to tables and figures from run folders."""

import argparse
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gnnscale.core.errors import UsageError, unknown
from gnnscale.core.record import Record, write_bytes
from gnnscale.report import keys
from gnnscale.report.compare import TESTS
from gnnscale.report.measures import FIXED, Measure, find, nearest, offered
from gnnscale.report.pivot import pivot
from gnnscale.report.render import FORMATS, format_of, render
from gnnscale.report.rows import Found, collect, text
from gnnscale.report.scores import Section, Wish, sections, table
from gnnscale.report.table import Table

log = logging.getLogger("gnnscale")

EPILOG = """\
columns: {columns}; extra.NAME, bench.WORKLOAD.SCOPE.STATISTIC,
  any number of record.json by its dotted path, any group or parameter (architecture.hidden)
examples:
  gnnscale report 'runs/sweep/*' --where dataset=cora --baseline architecture=gcn --sort test
  gnnscale report runs --by sampler --show architecture,test,latency_p50,bytes --format latex
  gnnscale report runs --rows architecture --columns dataset --out table.md
  gnnscale report runs --out report.html --plots figures
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"report: {message}; type gnnscale report --help")


def parser() -> argparse.ArgumentParser:
    """The flags of the verb."""
    made = _Parser(
        "gnnscale report", description="mean ± sample std tables and figures from run folders",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG.format(columns=", ".join(FIXED)), allow_abbrev=False,
    )  # fmt: skip
    made.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        default=["runs"],
        help="run folders, folders of them, or globs in quotes (default: runs)",
    )
    add = made.add_argument
    add(
        "--where",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="only these compositions; KEY=A,B and KEY!=A and g* work; may be repeated",
    )
    add("--by", metavar="KEY[,KEY]", help="one table (and figures) per value of these keys")
    add("--show", metavar="NAME[,NAME]", help="columns, in this order; see below")
    add("--sort", metavar="NAME", help="by a column, the better first, or by a key; -NAME reverses")
    add(
        "--baseline",
        metavar="KEY=VALUE[,...]",
        help="test every row against this one (or a row's whole label), paired over seeds",
    )
    add("--test", metavar="|".join(TESTS), default="t", help="of significance (default: t)")
    add("--rows", metavar="KEY", help="one measure, one line per value of this key ...")
    add("--columns", metavar="KEY", help="... and one column per value of this one")
    add("--measure", metavar="NAME", help="what --rows and --columns lay out (default: test)")
    add("--format", metavar="|".join(FORMATS), help="default: by the suffix of --out, else table")
    add("--out", type=Path, metavar="FILE", action="append", default=[],
        help="write to this file (.md .csv .tex .html .txt); may be repeated")  # fmt: skip
    add("--plots", type=Path, metavar="DIR", help="write the figures there, as PNG and SVG")
    return made


def report(words: Sequence[str], aliases: Mapping[str, str]) -> tuple[str, int]:
    """What to print, and the exit code: 2 if something could not be read, which is then named.

    Raises UsageError for what is typed wrong, and if there is nothing to report.
    """
    given = parser().parse_args(_joined(words))
    if given.test not in TESTS:
        raise UsageError(f"--test {given.test}: {unknown('test', given.test, TESTS)}")
    if (given.rows is None) != (given.columns is None):
        raise UsageError("report: --rows and --columns go together, "
                         "e.g. --rows dataset --columns architecture")  # fmt: skip
    if given.rows and (given.by or given.show or given.sort or given.baseline):
        raise UsageError("report: --by, --show, --sort and --baseline don't go with --rows and "
                         "--columns; --where and --measure do")  # fmt: skip
    if given.measure and not given.rows:
        raise UsageError("report: --measure goes with --rows and --columns; for a flat table type "
                         f"--show {given.measure}")  # fmt: skip
    for place in (*given.out, given.plots):
        _writable(place, folder=place is given.plots)
    forms = {out: format_of(given.format, out) for out in given.out or [None]}
    found = collect(given.folders)
    rows = keys.select(found.rows, given.where, aliases)
    tests = ("t", "wilcoxon") if given.test == "both" else (given.test,)
    wish = Wish(_split(given.by), _split(given.show), given.sort or "", given.baseline or "", tests,
                aliases)  # fmt: skip
    parts = sections(rows, wish)
    if given.rows:
        tables = [pivot(rows, given.rows, given.columns, _measure(given.measure, rows), wish)]
    else:
        tables = [table(part, rows, wish) for part in parts]
    wanted = "html" in forms.values() or given.plots
    figures = _drawn(parts, offered(rows)) if wanted else []
    tables[-1].notes += [*found.notes, *_machines(parts)]
    for problem in found.broken:
        log.warning("%s; left out", problem)
    said = []
    for out, form in forms.items():
        content = _page(tables, figures, found) if form == "html" else render(tables, form)
        if out is None:
            said.append(content)
        else:
            _write(out, (content + "\n").encode())
            said.append(str(out))
    if given.plots:
        written = _save(given.plots, parts, figures)
        said += [] if forms.get(None, "table") != "table" else written  # type: ignore[call-overload]
    return "\n".join(said), 2 if found.broken else 0


def _joined(words: Sequence[str]) -> list[str]:
    """``--sort -test`` as one word: argparse would take -test for a flag."""
    out: list[str] = []
    for word in words:
        if out and out[-1] == "--sort" and re.fullmatch(r"-[a-z].*", word):
            out[-1] = f"--sort={word}"
        else:
            out.append(word)
    return out


def _split(names: str | None) -> list[str]:
    return [name for name in (names or "").split(",") if name]


def _measure(name: str | None, rows: Sequence[Any]) -> Measure:
    found = find(name or "test", rows)
    if found is None:
        raise UsageError(f"--measure: {nearest(name or '', rows, [])}")
    return found


def _drawn(parts: Sequence[Section], measures: dict[str, Measure]) -> list[list[Any]]:
    from gnnscale.report.figures import drawings

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    return [drawings(part, measures) for part in parts]


def _page(tables: Sequence[Table], figures: Sequence[Sequence[Any]], found: Found) -> str:
    from gnnscale.report.page import page

    blocks = [(t, figures[i] if len(tables) == len(figures) else []) for i, t in enumerate(tables)]
    if len(tables) != len(figures):  # a pivot: one table over all sections
        blocks = [(tables[0], [drawing for part in figures for drawing in part])]
    sources = [
        f"{seed.folder}  {seed.state}  {_revision(seed.record)}"
        for row in found.rows for seed in row.seeds
    ]  # fmt: skip
    return page(blocks, found.broken, sources)


def _revision(record: Record | None) -> str:
    """The version of gnnscale that wrote a record."""
    about = record.environment if record else {}
    version = (about.get("versions") or {}).get("gnnscale", "")
    return f"gnnscale {version} {about.get('revision') or ''}".rstrip() if version else ""


def _save(folder: Path, parts: Sequence[Section], figures: Sequence[Sequence[Any]]) -> list[str]:
    from gnnscale.report.page import saved

    written = []
    for part, drawings in zip(parts, figures, strict=True):
        front = re.sub(r"[^\w.=-]+", "-", part.title).strip("-")
        for drawing in drawings:
            for form in ("png", "svg"):
                path = folder / f"{front}-{drawing.name}.{form}"
                _write(path, saved(drawing.figure, form))
                written.append(str(path))
    return written


def _machines(parts: Sequence[Section]) -> list[str]:
    """A note if the rows of a table were timed on different machines."""
    notes = []
    for part in parts:
        seen = {
            ", ".join(f"{k} {text(r.environment[k])}" for k in ("cpu", "cores", "threads", "device")
                      if k in r.environment)
            for row in part.rows for r in row.records
        }  # fmt: skip
        if len(seen) > 1:
            notes.append(
                f"{part.title}: times and memory come from different machines "
                f"({'; '.join(sorted(seen))}) and can't be compared across them."
            )
    return notes


def _writable(place: Path | None, folder: bool) -> None:
    """Refuse before the work is done, not after."""
    if place is None:
        return
    flag = "--plots" if folder else "--out"
    if not folder and place.is_dir():
        raise UsageError(f"{flag} {place}: is a folder; give a file, e.g. {place / 'report.html'}")
    if folder and place.exists() and not place.is_dir():
        raise UsageError(f"{flag} {place}: is a file; give a folder for the figures")
    above = next(p for p in (place, *place.absolute().parents) if p.exists())
    if not os.access(above, os.W_OK) or not (above.is_dir() or above == place):
        raise UsageError(f"{flag} {place}: can't be written ({above}); choose another place")


def _write(path: Path, content: bytes) -> None:
    try:
        write_bytes(path, content)
    except OSError as error:
        raise UsageError(
            f"{path}: can't be written ({error.strerror}); choose another place"
        ) from error

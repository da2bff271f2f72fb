"""``gnnscale reproduce``: its words, and the order of what it does with them."""

import argparse
import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnnscale.catalog import TABLES, Catalog
from gnnscale.core.errors import UsageError, unknown
from gnnscale.overrides import normalise
from gnnscale.reproduce import driver, show
from gnnscale.reproduce.preset import differing, words
from gnnscale.reproduce.published import Row, Table, pick, tables
from gnnscale.reproduce.result import ROOT, Result, folder, unfinished
from gnnscale.reproduce.show import FORMATS
from gnnscale.reproduce.state import data, missing
from gnnscale.reproduce.verdict import FAILED, MISSED

log = logging.getLogger("gnnscale")

KEYS = ("table", "rows", "seeds", "jobs", "out", "download", "budget")
PASSED = ("hardware", "logger", "dataset.root", "trust")
"""What else may be given: where and how rows run, nothing that alters what they are."""
HELP = """\
gnnscale reproduce table=NAME [rows=a,b] [seeds=N] [jobs=K] [out=DIR] [--format FORMAT]
gnnscale reproduce --list [table=NAME] [--format FORMAT]
gnnscale reproduce --document FILE.md [out=DIR]

Runs what is missing of a published table, then prints published | ours | difference | n | verdict.
The same command goes on where it was stopped. The document's figures are also written to FILE.json,
from which the next one takes the rows that ran elsewhere.

  table=gcn  table=gcn,gat  table=all   which; --list tells all
  rows=cora,citeseer         some of its rows (of one table)
  seeds=3                    seeds 0 to N - 1 of every row; default: as the row says
  jobs=2                     rows at a time, which divide the cores
  out=DIR                    where run folders go (runs/reproduce)
  budget=600                 leave out rows that cost more seconds than this, or an unknown number
  download=true              fetch missing files whose source is public
  hardware=cuda logger=csv dataset.root=DIR trust=PACKAGE   passed on to every row

Exit codes: 0 all judged rows that could run are reached, 1 one is not or a row failed, 2 bad input,
130 interrupted.
"""


@dataclass
class Asked:
    """What was typed."""

    names: list[str] | None = None
    rows: list[str] | None = None
    seeds: int | None = None
    jobs: int = 1
    out: Path = ROOT
    download: bool = False
    budget: float = math.inf
    passed: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    list: bool = False
    document: Path | None = None
    format: str = "table"
    help: bool = False


def reproduce(words: Sequence[str], catalog: Catalog, say: Callable[[str], None]) -> int:
    """One command. ``say``: writes a result to standard output."""
    asked = parse(words, catalog)
    if asked.help:
        say(HELP)
        return 0
    known = {table.name: table for table in tables(catalog)}
    chosen = [known[t.name] for t in tables(catalog, asked.names)] if asked.names else []
    if asked.list:
        say(show.listing(asked.out, chosen or list(known.values()), catalog, asked.format))
        return 0
    if asked.document is not None:
        from gnnscale.reproduce.document import write

        write(asked.document, asked.out, chosen or list(known.values()), known, catalog)
        say(str(asked.document))
        return 0
    if not chosen:
        raise UsageError(f"gnnscale reproduce: which table? type table=NAME, one of "
                         f"{', '.join(known)}; --list tells what each is")  # fmt: skip
    picked = {table.name: pick(table, asked.rows) for table in chosen}
    jobs, left_out = plan(chosen, picked, asked, catalog)
    codes, interrupted = driver.run(jobs, asked.jobs) if jobs else ({}, False)
    found: list[Result] = []
    for table in chosen:
        mine = show.results(asked.out, table, picked[table.name], known, catalog)
        found += mine
        say(show.outcome(mine, asked.format) + ("" if asked.format == "csv" else "\n"))
    for why in dict.fromkeys(left_out.values()):
        log.warning("not run: %s: %s", ", ".join(n for n, w in left_out.items() if w == why), why)
    failures = [name for name, code in codes.items() if code not in (0, 130)]
    if failures:
        log.error("failed: %s; the same command tries again", ", ".join(failures))
    if interrupted:
        return 130
    bad = [r for r in found if r.verdict.state in (MISSED, FAILED)]
    return 1 if bad or failures else 0


def plan(
    chosen: Sequence[Table], picked: dict[str, dict[str, Row]], asked: Asked, catalog: Catalog
) -> tuple[list[driver.Job], dict[str, str]]:
    """(what there is to run, why other rows are left out)."""
    jobs, left_out = [], {}
    for table in chosen:
        for name, row in picked[table.name].items():
            label, seeds = f"{table.name}/{name}", asked.seeds or row.seeds
            where = folder(asked.out, table.name, name)
            open_ = unfinished(asked.out, table.name, name, range(seeds))
            if not open_:
                log.info("%s: %d seeds are finished", label, seeds)
                continue
            why = obstacle(row, len(open_), asked, catalog) or strange(where, row, catalog)
            if why:
                left_out[label] = why
                continue
            said = asked.out / table.name / "logs" / f"{name}.txt"
            jobs.append(driver.Job(label, command(asked, row, where, seeds), where, said))
    return jobs, left_out


def obstacle(row: Row, seeds: int, asked: Asked, catalog: Catalog) -> str:
    """Why a row can't run, and what to do about it; "" if it can."""
    if lacking := missing(row, catalog):
        return f"not in this version: {', '.join(lacking)}"
    there = any(word.lstrip("+").startswith("dataset.root=") for word in asked.passed)
    found = data(row.dataset, catalog) if not there else None
    if found is not None and not found.there and not (asked.download and found.fetchable):
        hint = "type download=true, or " if found.fetchable else ""
        return f"data absent: {hint}{found.told}"
    if seeds * (row.cost.seconds if row.cost else math.inf) > asked.budget:
        return f"costs {show.cost_text(row)} s per seed, more than budget={asked.budget:g} allows"
    return ""


def strange(where: Path, row: Row, catalog: Catalog) -> str:
    """Why a folder's runs can't be gone on with; "" if they can, or there are none."""
    keys = differing(where, row, catalog, strict=True)
    if not keys:
        return ""
    return (f"{where} holds runs of another version of the preset (other {', '.join(keys)}); move "
            "it away, or type out=DIR")  # fmt: skip


def command(asked: Asked, row: Row, where: Path, seeds: int) -> tuple[str, ...]:
    """The words behind ``gnnscale`` that run, or go on with, a row.

    The fixed folder and not ``resume=``: it is refused where the preset has changed meanwhile.
    """
    place = str(where)
    if not re.fullmatch(r"[\w./+-]+", place):
        escaped = place.replace("\\", "\\\\").replace("'", "\\'")
        place = f"'{escaped}'"
    return ("train", *words(row), *asked.passed, f"seeds={seeds}", f"hydra.run.dir={place}",
            *asked.folders)  # fmt: skip


# -- the words ------------------------------------------------------------------------------------


def parse(words: Sequence[str], catalog: Catalog) -> Asked:
    """What was typed. Raises UsageError for what can't be meant."""
    asked = Asked()
    parser = argparse.ArgumentParser("gnnscale reproduce", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument("--document", type=Path)
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    given, rest = parser.parse_known_args(list(words))
    asked.list, asked.help = given.list, given.help
    asked.format, asked.document = given.format, given.document
    asked.folders = [w for place in given.config_dir for w in ("--config-dir", place)]
    if flags := [w for w in rest if w.startswith("-")]:
        raise UsageError(f"gnnscale reproduce: {unknown('flag', flags[0], _FLAGS)}")
    problems = []
    for word in [*given.words, *rest]:
        try:
            _take(word, asked, catalog)
        except UsageError as problem:
            problems.append(str(problem))
    if asked.rows and (asked.names is None or len(asked.names) != 1):
        problems.append("rows=: goes with one table; type table=NAME too")
    if problems:
        raise UsageError("\n".join(problems))
    return asked


_FLAGS = ("--list", "--format", "--document", "--config-dir", "--help")


def _take(word: str, asked: Asked, catalog: Catalog) -> None:
    """One ``key=value``."""
    key, equals, value = word.lstrip("+").partition("=")
    if not equals and word in catalog.options(TABLES):
        raise UsageError(f"{word}: type table={word}")
    if not equals or not value:
        raise UsageError(f"{word}: not key=value; valid keys: {', '.join((*KEYS, *PASSED))}")
    if key in ("table", "rows"):
        listed = [part.strip() for part in value.strip("[]").split(",") if part.strip()]
        if key == "rows":
            asked.rows = listed
        else:
            every = list(catalog.options(TABLES))
            asked.names = every if listed == ["all"] else listed
    elif key in ("seeds", "jobs"):
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"{word}: not a whole number >= 1; e.g. {key}={2}")
        setattr(asked, key, int(value))
    elif key == "budget":
        asked.budget = _seconds(word, value)
    elif key == "out":
        asked.out = Path(value).expanduser()
    elif key == "download":
        if value not in ("true", "false"):
            raise UsageError(f"{word}: valid: download=true, download=false")
        asked.download = value == "true"
    elif key in PASSED or key.split(".")[0] in ("hardware", "logger"):
        normalise([word], catalog)  # refused here rather than by every row
        asked.passed.append(word)
    else:
        raise UsageError(f"{unknown('key', key, (*KEYS, *PASSED))}; a row's preset says what it is "
                         "made of, and nothing here alters that")  # fmt: skip


def _seconds(word: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise UsageError(f"{word}: not a number of seconds > 0; e.g. budget=600")
    return number

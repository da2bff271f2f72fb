"""What has been run of a row: its folder's records, in the row's unit."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.reproduce.published import Row, Table
from gnnscale.reproduce.state import missing
from gnnscale.reproduce.verdict import UNJUDGED, Verdict, judge

ROOT = Path("runs/reproduce")
Tables = Mapping[str, Table]


@dataclass
class Result:
    """A row with its finished and failed seeds, and the scores of its baseline by seed.

    started: when the run began. stale: keys in which the records' composition is not the row's.
    """

    table: Table
    name: str
    row: Row
    records: list[Record]
    failed: list[int]
    started: str = ""
    baseline: dict[int, float] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)

    @property
    def scores(self) -> list[float]:
        """Test scores by seed, in the row's unit."""
        return [self.row.scale * r.metric["test"] for r in self.records]

    @property
    def differences(self) -> list[float]:
        """Ours minus the baseline's on the seeds that both have."""
        pairs = zip(self.records, self.scores, strict=True)
        return [score - self.baseline[r.seed] for r, score in pairs if r.seed in self.baseline]

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        if self.stale:
            return Verdict(UNJUDGED, f"of another version of the preset ({_few(self.stale)})")
        return judge(self.row, self.scores, self.failed, self.differences or None)

    def epoch_s(self) -> float | None:
        """Median seconds per epoch, averaged over the seeds."""
        known = [r.time_s["epoch_median"] for r in self.records]
        known = [s for s in known if s is not None]
        return statistics.mean(known) if known else None

    def seed_s(self) -> float | None:
        """Seconds per seed, preparation and evaluation included, averaged over the seeds."""
        return statistics.mean(r.time_s["total"] for r in self.records) if self.records else None


def folder(root: Path, table: str, row: str) -> Path:
    """The run folder of a row."""
    return root / table / row


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")


def result(root: Path, table: Table, name: str, known: Tables, catalog: Catalog) -> Result:
    """What a row's folder holds; an empty result if it was never run.

    Raises UsageError if a record is scored by another metric than the table states.
    """
    row = table.rows[name]
    where = folder(root, table.name, name)
    found = _read(where, row, f"table={table.name} row={name}")
    stale = _stale(where, row, catalog) if found[0] else []
    base: dict[int, float] = {}
    if row.against is not None:
        elsewhere, _, other = row.against.row.rpartition("/")
        home = known.get(elsewhere or table.name)
        if home is None or other not in home.rows:
            raise UsageError(f"table={table.name} row={name}: against={row.against.row} is no row")
        theirs = home.rows[other]
        place = folder(root, home.name, other)
        done, _, _ = _read(place, theirs, row.against.row)
        if done and not _stale(place, theirs, catalog):
            base = {r.seed: theirs.scale * r.metric["test"] for r in done}
    records, failed, started = found
    return Result(table, name, row, records, failed, started, base, stale)


def _stale(where: Path, row: Row, catalog: Catalog) -> list[str]:
    from gnnscale.reproduce.preset import differing

    if missing(row, catalog):
        return ["the preset is gone"]
    return differing(where, row, catalog)


def _read(where: Path, row: Row, said: str) -> tuple[list[Record], list[int], str]:
    """(records by seed, failed seeds, when the run began)."""
    records = [Record.load(p) for p in where.glob("seed-*/record.json")]
    records.sort(key=lambda r: r.seed)
    for record in records:
        if record.metric["name"] != row.metric:
            raise UsageError(
                f"{said}: {where} is scored by {record.metric['name']}, the table states "
                f"{row.metric}; correct the table"
            )
    done = {r.seed for r in records}
    failed = []
    for path in where.glob("seed-*/status.json"):
        seed = int(path.parent.name.removeprefix("seed-"))
        if seed not in done and json.loads(path.read_text())["state"] == "failed":
            failed.append(seed)
    about = where / "run.json"
    started = json.loads(about.read_text()).get("started", "") if about.exists() else ""
    return records, sorted(failed), started


def unfinished(root: Path, table: str, name: str, seeds: Sequence[int]) -> list[int]:
    """Seeds of a row that have no record yet."""
    where = folder(root, table, name)
    return [s for s in seeds if not (where / f"seed-{s}/record.json").exists()]

"""What has been run of a row: its folder's records, in the row's unit."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.reproduce.preset import changed, differing
from gnnscale.reproduce.published import Row, Table
from gnnscale.reproduce.state import missing
from gnnscale.reproduce.summary import Summary
from gnnscale.reproduce.verdict import UNJUDGED, Verdict, judge

ROOT = Path("runs/reproduce")
Tables = Mapping[str, Table]


@dataclass
class Ran:
    """What is known of a row's runs.

    seeds: the finished ones. scores: their test scores, in the row's unit. failed: seeds. started:
    when the run began. epoch_s: median seconds per epoch, averaged over the seeds. environments:
    every distinct one of the records. stale: keys in which the runs' composition is not the row's.
    experiment, settings: what that was, see ``preset.changed``. stated, gap: where only these are
    left of the scores and of their differences from the baseline.
    """

    seeds: list[int] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    started: str = ""
    epoch_s: float | None = None
    environments: list[dict[str, Any]] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    experiment: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    stated: Summary | None = None
    gap: Summary | None = None

    def __bool__(self) -> bool:
        return bool(self.seeds or self.failed)


@dataclass
class Result:
    """A row, what is known of its runs, and its baseline's scores by seed."""

    table: Table
    name: str
    row: Row
    ran: Ran
    baseline: dict[int, float] = field(default_factory=dict)

    @property
    def ours(self) -> Summary | None:
        """Of the test scores."""
        return self.ran.stated or Summary.of(list(self.ran.scores.values()))

    @property
    def gap(self) -> Summary | None:
        """Of ours minus the baseline's on the seeds that both have."""
        common = self.ran.scores.keys() & self.baseline.keys()
        found = [self.ran.scores[s] - self.baseline[s] for s in sorted(common)]
        return Summary.of(found, test=True) or self.ran.gap

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        if self.ran.stale:
            return Verdict(UNJUDGED, f"of another version of the preset ({_few(self.ran.stale)})")
        return judge(self.row, self.ours, self.ran.failed, self.gap)


def folder(root: Path, table: str, row: str) -> Path:
    """The run folder of a row."""
    return root / table / row


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (" and others" if len(keys) > 3 else "")


def result(root: Path, table: Table, name: str, known: Tables, catalog: Catalog) -> Result:
    """What a row's folder holds; an empty result if it was never run.

    Raises UsageError if a record is scored by another metric than the table states.
    """
    found = ran(root, table, name, catalog)
    home, other = baseline(table, name, known)
    theirs = ran(root, home, other, catalog) if home else Ran()
    return Result(table, name, table.rows[name], found, {} if theirs.stale else theirs.scores)


def baseline(table: Table, name: str, known: Tables) -> tuple[Table | None, str]:
    """Table and name of the row that a row is compared with. Raises UsageError if there is none."""
    against = table.rows[name].against
    if against is None:
        return None, ""
    elsewhere, _, other = against.row.rpartition("/")
    home = known.get(elsewhere or table.name)
    if home is None or other not in home.rows:
        raise UsageError(f"table={table.name} row={name}: against={against.row} is no row")
    return home, other


def ran(root: Path, table: Table, name: str, catalog: Catalog) -> Ran:
    """What is known of a row from its folder.

    Raises UsageError if a record is scored by another metric than the table states.
    """
    row, where = table.rows[name], folder(root, table.name, name)
    records = sorted((Record.load(p) for p in where.glob("seed-*/record.json")),
                     key=lambda r: r.seed)  # fmt: skip
    for record in records:
        if record.metric["name"] != row.metric:
            raise UsageError(
                f"table={table.name} row={name}: {where} is scored by {record.metric['name']}, "
                f"the table states {row.metric}; correct the table"
            )
    scores = {r.seed: row.scale * r.metric["test"] for r in records}
    failed = []
    for path in where.glob("seed-*/status.json"):
        seed = int(path.parent.name.removeprefix("seed-"))
        if seed not in scores and json.loads(path.read_text())["state"] == "failed":
            failed.append(seed)
    about = where / "run.json"
    started = json.loads(about.read_text()).get("started", "") if about.exists() else ""
    epochs = [s for r in records if (s := r.time_s["epoch_median"]) is not None]
    environments: list[dict[str, Any]] = []
    for r in records:
        if r.environment not in environments:
            environments.append(r.environment)
    found = Ran(
        seeds=list(scores), scores=scores, failed=sorted(failed), started=started,
        epoch_s=statistics.mean(epochs) if epochs else None, environments=environments,
        experiment=row.experiment,
    )  # fmt: skip
    if records and missing(row, catalog):
        found.stale = ["the preset is gone"]
    elif records:
        found.stale = differing(where, row, catalog)
        found.settings = changed(where, row, catalog)
    return found


def unfinished(root: Path, table: str, name: str, seeds: Sequence[int]) -> list[int]:
    """Seeds of a row that have no record yet."""
    where = folder(root, table, name)
    return [s for s in seeds if not (where / f"seed-{s}/record.json").exists()]

"""What a document knows of runs whose folders are elsewhere: a JSON of the same name beside it.

Run folders are large and stay where they ran; a table takes many machines and days. So writing the
document also writes the few figures of every row that it shows, and the next one starts from those.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from gnnscale.catalog import Catalog
from gnnscale.core.errors import UsageError
from gnnscale.core.record import write_json
from gnnscale.reproduce.preset import unlike
from gnnscale.reproduce.published import Strict, Table
from gnnscale.reproduce.result import Ran
from gnnscale.reproduce.state import missing
from gnnscale.reproduce.summary import Summary


class Stated(Strict):
    """A ``Summary`` in JSON."""

    n: int
    mean: float
    std: float | None = None
    p: float | None = None


class Kept(Strict):
    """One row. Scores are in the row's unit, by seed; environments are numbers of the file's list.

    settings: dotted keys of the composition that are not the options' defaults, {} if not known.
    stated, gap: where the scores by seed are not known.
    """

    experiment: str
    metric: str
    started: str = ""
    seeds: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    scores: dict[int, float] = Field(default_factory=dict)
    stated: Stated | None = None
    gap: Stated | None = None
    epoch_s: float | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    environments: tuple[int, ...] = ()


class File(Strict):
    """The file. rows: by ``table/row``."""

    environments: list[dict[str, Any]] = Field(default_factory=list)
    rows: dict[str, Kept] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "File":
        for name, row in self.rows.items():
            if any(not 0 <= i < len(self.environments) for i in row.environments):
                raise ValueError(f"rows.{name}: names an environment that is not listed")
        return self


def beside(document: Path) -> Path:
    """Where the figures of a document are."""
    return document.with_suffix(".json")


def load(path: Path) -> File:
    """The file, empty if there is none. Raises UsageError if it is not one."""
    if not path.exists():
        return File()
    try:
        return File.model_validate_json(path.read_text())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(
            f"{path}: {where}: {first['msg']}; it holds the figures of the document beside it: "
            "restore it, or move it away to start anew"
        ) from None


def recall(file: File, table: Table, name: str, catalog: Catalog) -> Ran:
    """What the file says of a row; nothing if it has not that row by that metric."""
    row, entry = table.rows[name], file.rows.get(f"{table.name}/{name}")
    if entry is None or entry.metric != row.metric:
        return Ran()
    stale = ["experiment"] if entry.experiment != row.experiment else []
    if missing(row, catalog):
        stale = ["the preset is gone"]
    elif entry.settings and not stale:
        stale = unlike(entry.settings, row, catalog)
    return Ran(
        seeds=list(entry.seeds), scores=dict(entry.scores), failed=list(entry.failed),
        started=entry.started, epoch_s=entry.epoch_s, stale=stale, experiment=entry.experiment,
        environments=[file.environments[i] for i in entry.environments], settings=entry.settings,
        stated=_summary(entry.stated), gap=_summary(entry.gap),
    )  # fmt: skip


def _summary(stated: Stated | None) -> Summary | None:
    return None if stated is None else Summary(**stated.model_dump())


def better(here: Ran, kept: Ran) -> Ran:
    """Whichever a document shows: the runs here, unless more seeds are known from elsewhere."""
    if not kept or (here and (kept.stale or len(here.seeds) >= len(kept.seeds))):
        return here
    return kept


def save(path: Path, file: File, shown: Iterable[tuple[Table, str, Ran]]) -> None:
    """Write the file with these rows renewed."""
    environments, rows = list(file.environments), dict(file.rows)
    for table, name, ran in shown:
        for about in ran.environments:
            if about not in environments:
                environments.append(about)
        row = table.rows[name]
        rows[f"{table.name}/{name}"] = Kept(
            experiment=ran.experiment or row.experiment, metric=row.metric, started=ran.started,
            seeds=tuple(ran.seeds), failed=tuple(ran.failed), scores=ran.scores,
            stated=_stated(ran.stated), gap=_stated(ran.gap), epoch_s=ran.epoch_s,
            settings=ran.settings,
            environments=tuple(environments.index(about) for about in ran.environments),
        )  # fmt: skip
    content = File(environments=environments, rows=dict(sorted(rows.items())))
    write_json(path, content.model_dump(mode="json", exclude_defaults=True))


def _stated(summary: Summary | None) -> Stated | None:
    return None if summary is None else Stated(**asdict(summary))

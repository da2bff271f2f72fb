"""Published tables as data: the schema of ``conf/table/*.yaml``, read and checked."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gnnscale.catalog import TABLES, Catalog, Option
from gnnscale.core.errors import UsageError, unknown
from gnnscale.core.metrics import METRICS

LOWER = tuple(name for name, metric in METRICS.items() if not metric.higher)
"""Metrics of which less is better; they stay in their own unit, all others are in percent."""
Verification = Literal["code", "readme", "paper", "leaderboard", "quoted", "unverified", "none"]
"""How a published value was verified: read in the authors' code or configuration, in their README,
in the paper, in OGB's leaderboard; quoted: a third party's word; unverified: shown, never judged;
none: no value is known for certain.
"""
UNJUDGED = ("unverified", "none")


class Strict(BaseModel):
    """A part of a table; a key that nothing reads is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Published(Strict):
    """A published value in the row's unit (percent, or the metric's own for those of ``LOWER``).

    spread: its standard deviation. n: runs it is the mean of; None where that isn't known.
    source: where it was read. verified: see ``Verification``.
    """

    value: float | None = None
    spread: float | None = Field(None, ge=0)
    n: int | None = Field(None, ge=1)
    source: str = ""
    verified: Verification = "none"

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        if (self.value is None) != (self.verified == "none"):
            raise ValueError(
                f"value={self.value} verified={self.verified}: a value says how it was verified, "
                "and verified=none has no value"
            )
        if self.value is not None and not self.source:
            raise ValueError(f"value={self.value}: has no source; say where it was read")
        if self.value is None and (self.spread is not None or self.n is not None):
            raise ValueError("spread and n belong to a value, and there is none")
        return self

    def text(self) -> str:
        """``83.0 ± 0.7``, with a word where it was not read at its source."""
        if self.value is None:
            return "no verified value"
        spread = f" ± {self.spread:g}" if self.spread is not None else ""
        note = f" ({self.verified})" if self.verified in ("quoted", "unverified") else ""
        return f"{self.value:g}{spread}{note}"


class Cost(Strict):
    """Seconds per seed on one core of a machine like ours. measured: by a run of this row."""

    seconds: float = Field(gt=0)
    measured: bool = False


class Against(Strict):
    """Our own run that a row is compared with, seed by seed.

    row: ``row`` of the same table or ``table/row``. within: judged as mean difference >= -within
    (lower is better: <= within), in the row's unit; None: the difference is stated only.
    """

    row: str
    within: float | None = Field(None, ge=0)


class Row(Strict):
    """One cell of a published table.

    experiment: the preset that runs it, ``overrides`` on top. dataset: its option. seeds: how many
    by default. needs: options (``group=name``) the preset will be made of; with ``awaits`` (words)
    they tell what is missing as long as the preset does not exist. judged: by the rule, with
    ``tolerance``; ``why``: of the tolerance, or of not judging. few: ``two_std`` replaces the
    tolerance by twice the published spread while there are fewer than three seeds.
    """

    label: str
    experiment: str
    overrides: tuple[str, ...] = ()
    dataset: str
    metric: str = "accuracy"
    seeds: int = Field(10, ge=1)
    published: Published = Published()
    tolerance: float | None = Field(None, ge=0)
    why: str = Field(min_length=1)
    judged: bool = False
    few: Literal["two_std"] | None = None
    cost: Cost | None = None
    against: Against | None = None
    needs: tuple[str, ...] = ()
    awaits: str = ""

    @model_validator(mode="after")
    def _judgeable(self) -> "Row":
        p = self.published
        paired = self.against is not None and self.against.within is not None
        if self.judged and self.tolerance is None and not paired:
            raise ValueError("judged: a tolerance, or within of against, is needed")
        if self.tolerance is not None and p.verified in UNJUDGED:
            raise ValueError(
                f"tolerance={self.tolerance}: a value that is {p.verified} is no target"
            )
        if (self.tolerance is not None or paired) and not self.judged:
            raise ValueError("a tolerance or within is there, but judged is false")
        if self.few and p.spread is None:
            raise ValueError(f"few={self.few}: the published value has no spread")
        for word in self.needs:
            if word.count("=") != 1:
                raise ValueError(f"needs: '{word}' is not group=option")
        return self

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.metric in LOWER

    @property
    def scale(self) -> float:
        """From a record's score to the row's unit."""
        return 1.0 if self.lower else 100.0


class Table(Strict):
    """A published table. ``shared``: what all rows have in common unless they say otherwise."""

    name: str
    title: str
    paper: str = Field(min_length=1)
    link: str = Field(pattern=r"https?://\S+")
    systems: tuple[str, ...] = Field(min_length=1)
    notes: str = ""
    shared: dict[str, Any] = {}
    rows: dict[str, Row] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _spread_shared(cls, content: Any) -> Any:
        """Every row over ``shared``, ``published`` key by key."""
        if not isinstance(content, Mapping) or not isinstance(content.get("rows"), Mapping):
            return content
        shared = content.get("shared") or {}
        rows = {}
        for name, row in content["rows"].items():
            if isinstance(row, Mapping):
                below = {k: v for k, v in shared.items() if k != "published"}
                own = row.get("published")
                if own is not None and own.get("verified") != "none":
                    own = {**(shared.get("published") or {}), **own}
                row = {**below, **row, **({"published": own} if own is not None else {})}
            rows[str(name)] = row
        return {**content, "rows": rows}

    @model_validator(mode="after")
    def _names(self) -> "Table":
        for name, row in self.rows.items():
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"rows.{name}: letters, digits, - and _ only; it names a folder")
            if row.against and "/" not in row.against.row and row.against.row not in self.rows:
                raise ValueError(f"rows.{name}.against: {row.against.row} is no row of this table")
        return self


def read(option: Option) -> Table:
    """The table in a YAML. Raises UsageError naming the file and every key that is wrong."""
    try:
        return Table(name=option.name, title=option.summary, **option.content)
    except ValidationError as error:
        said = [
            f"  {'.'.join(map(str, e['loc'])) or 'table'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise UsageError("\n".join([f"{option.path}: not a table of results", *said])) from None


def tables(catalog: Catalog, names: Iterable[str] | None = None) -> list[Table]:
    """The named tables, all of them by default.

    Raises UsageError for a name that is none, with the nearest.
    """
    known = catalog.options(TABLES)
    chosen = list(known) if names is None else list(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            raise UsageError(f"{unknown('table', name, known)}; `gnnscale reproduce --list` tells "
                             "what each is")  # fmt: skip
    return [read(known[name]) for name in chosen]


def pick(table: Table, names: Iterable[str] | None) -> dict[str, Row]:
    """The named rows of a table, all by default. Raises UsageError for a name that is none."""
    if names is None:
        return dict(table.rows)
    for name in names:
        if name not in table.rows:
            raise UsageError(f"table={table.name}: {unknown('row', name, table.rows)}")
    return {name: row for name, row in table.rows.items() if name in set(names)}

"""What was measured: the columns of tables and the axes of figures."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gnnscale.core.errors import closest
from gnnscale.core.metrics import METRICS, scale_of
from gnnscale.report.rows import Row, flat
from gnnscale.report.seeds import Seed

ARROW = {1: " ↑", -1: " ↓", 0: ""}
GENERAL = "{:.4g}"
COSTS = ("time_s.", "latency_ms.", "memory_mib.")


@dataclass(frozen=True)
class Measure:
    """One number per seed.

    name: as typed. title: as shown. path: dotted place in the record, or below ``bench.``.
    better: 1 if higher is, -1 if lower is, 0 if neither. scale: what the stored number is
    multiplied by. form: how a mean is shown.
    """

    name: str
    title: str
    path: str = field(repr=False)
    better: int = 0
    form: str = GENERAL
    scale: float = 1.0

    @property
    def header(self) -> str:
        """The title and an arrow in the better direction."""
        return self.title + ARROW[self.better]

    @property
    def score(self) -> bool:
        """A score of predictions, where a test of significance between seeds makes sense."""
        return self.path.startswith("metric.") and self.better != 0

    def told(self, metric: str) -> "Measure":
        """The same of rows whose score is ``metric``: its unit and its direction, if it is one."""
        known = METRICS.get(metric)
        if not self.score or known is None or (known.percent and known.higher):
            return self
        title = f"{self.name} {metric}" + (" %" if known.percent else "")
        form = self.form if known.percent else "{:.4f}"
        return replace(self, title=title, better=known.sign, scale=scale_of(metric), form=form)

    def of(self, seed: Seed) -> float | None:
        """The seed's value, or None if it was not measured."""
        if self.path.startswith("bench."):
            found: Any = seed.bench.get(self.path.removeprefix("bench."))
        elif seed.record is None:
            return None
        else:
            head, _, rest = self.path.partition(".")
            found = getattr(seed.record, head, None)
            for i, part in enumerate(rest.split(".") if rest else ()):
                if not isinstance(found, dict):
                    return None
                whole = ".".join(rest.split(".")[i:])  # names of extras may hold dots
                if whole in found:
                    found = found[whole]
                    break
                found = found.get(part)
        number = isinstance(found, int | float) and not isinstance(found, bool)
        return self.scale * found if number and math.isfinite(found) else None

    def values(self, row: Row) -> dict[int, float]:
        """The value of every finished seed that has one."""
        found = {seed.number: self.of(seed) for seed in row.done}
        return {number: value for number, value in found.items() if value is not None}


_PERCENT: dict[str, Any] = {"better": 1, "form": "{:.2f}", "scale": 100.0}
FIXED = {m.name: m for m in (
    Measure("test", "test %", "metric.test", **_PERCENT),
    Measure("valid", "valid %", "metric.valid", **_PERCENT),
    Measure("train", "train %", "metric.train", **_PERCENT),
    Measure("epoch_s", "epoch s", "time_s.epoch_median", -1),
    Measure("total_s", "total s", "time_s.total", -1),
    Measure("prepare_s", "prepare s", "time_s.prepare", -1),
    Measure("evaluate_s", "evaluate s", "time_s.evaluate_median", -1),
    Measure("latency_p50", "latency p50 ms", "latency_ms.p50", -1),
    Measure("latency_p95", "latency p95 ms", "latency_ms.p95", -1),
    Measure("memory", "peak MiB", "memory_mib.rss_peak", -1, "{:,.1f}"),
    Measure("cuda_memory", "CUDA peak MiB", "memory_mib.cuda_peak", -1, "{:,.1f}"),
    Measure("parameters", "parameters", "parameters", -1, "{:,.0f}"),
    Measure("bytes", "bytes", "model_bytes", -1, "{:,.0f}"),
    Measure("epochs", "epochs", "time_s.epochs", 0, "{:.0f}"),
    Measure("best_epoch", "best epoch", "metric.best_epoch", 0, "{:.0f}"),
)}  # fmt: skip
SHOWN = ("test", "valid", "epoch_s", "latency_p50", "memory", "cuda_memory", "parameters", "bytes")


def offered(rows: Iterable[Row]) -> dict[str, Measure]:
    """Every measure that the rows can show: the fixed ones, metric.extra's, and bench's."""
    found = dict(FIXED)
    for row in rows:
        for seed in row.done:
            extra = seed.record.metric.get("extra") if seed.record else None
            for name in flat(extra or {}):
                found.setdefault(f"extra.{name}", _made(f"extra.{name}"))
            for name in seed.bench:
                found.setdefault(f"bench.{name}", _made(f"bench.{name}"))
    return found


def find(name: str, rows: Sequence[Row]) -> Measure | None:
    """The measure of a name, or of a dotted path into the record that some seed has."""
    found = offered(rows).get(name)
    if found is not None:
        return found
    made = _made(name)
    return made if any(made.values(row) for row in rows) else None


def nearest(name: str, rows: Sequence[Row], keys: Sequence[str]) -> str:
    """What to say where neither a measure nor a key has this name."""
    names = list(offered(rows))
    return (
        f"column '{name}' does not exist{closest(name, [*names, *keys])}; valid: "
        f"{', '.join(names)}, any number of record.json by its dotted path (time_s.phases.sample), "
        "and any key (optimizer.lr)"
    )


def _made(name: str) -> Measure:
    """A measure by the path that its name is; what costs is better low."""
    if name.startswith("extra."):
        return Measure(name, name, f"metric.{name}")
    costs = name.startswith((*COSTS, "bench.memory.")) or (
        name.startswith("bench.") and name.endswith(("_ms", "_s", "_ns", "_mib", "_bytes"))
    )
    return Measure(name, name, name, -1 if costs else 0)

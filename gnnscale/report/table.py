"""Mean ± sample standard deviation tables from run folders; reads records and nothing else."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record

GROUPED_BY = ("dataset", "sampler", "architecture", "distillation", "quantization", "recipe")
HEADERS = ("composition", "metric ↑", "test %", "valid %", "n", "seeds", "unfinished", "epoch s ↓",
           "latency p50 ms ↓", "peak MiB ↓", "parameters ↓", "bytes ↓")  # fmt: skip


@dataclass
class Row:
    """All seeds of one composition."""

    label: str
    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The row's text; ``-`` where nothing was measured."""
        if not self.records:
            return [self.label, *["-"] * 3, "0", "-", seed_text(self.failed), *["-"] * 5]
        r = self.records
        return [
            self.label,
            r[0].metric["name"],
            spread([100 * x.metric["test"] for x in r]),
            spread([100 * x.metric["valid"] for x in r]),
            str(len(r)),
            seed_text([x.seed for x in r]),
            seed_text(self.failed),
            _mean([x.time_s["epoch_median"] for x in r], "{:.4f}"),
            _mean([x.latency_ms["p50"] if x.latency_ms else None for x in r], "{:.2f}"),
            _mean([x.memory_mib["rss_peak"] for x in r], "{:.0f}"),
            _mean([x.parameters for x in r], "{:,.0f}"),
            _mean([x.model_bytes for x in r], "{:,.0f}"),
        ]


def spread(values: Sequence[float]) -> str:
    """mean ± sample standard deviation; one value has no spread."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _mean(values: Iterable[float | None], form: str) -> str:
    known = [v for v in values if v is not None]
    return form.format(statistics.mean(known)) if known else "-"


def seed_text(seeds: Sequence[int]) -> str:
    """Seeds as a range where they are one."""
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds)) or "-"


def collect(folders: Iterable[Path]) -> list[Row]:
    """One row per composition under the folders; settings that differ between rows are named.

    Raises UsageError if a folder is not there or no finished or failed seed is found.
    """
    folders = list(folders)
    for folder in folders:
        if not folder.exists():
            raise UsageError(f"{folder}: no such folder; type gnnscale report RUN_FOLDER...")
    seeds = sorted({p.parent for f in folders for p in f.rglob("status.json")})
    seeds += sorted({p.parent for f in folders for p in f.rglob("record.json")} - set(seeds))
    found: dict[str, tuple[dict[str, Any], dict[str, Any], Row]] = {}
    for folder in seeds:
        if folder.name == "teacher":
            continue
        about, config = _composition(folder)
        if about is None:
            continue
        key = json.dumps([about, config], sort_keys=True, default=str)
        _, _, row = found.setdefault(key, (about, config, Row("", about, config)))
        if (folder / "record.json").exists():
            row.records.append(Record.load(folder / "record.json"))
        else:
            row.failed.append(int(folder.name.rpartition("-")[2]))
    if not found:
        raise UsageError(
            f"{', '.join(map(str, folders))}: no finished seed in there; `gnnscale train` makes one"
        )
    entries = list(found.values())
    for about, config, row in entries:
        row.label = _label(about, config, [c for a, c, _ in entries if a == about])
    return [row for _, _, row in entries]


def _composition(seed_folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """(chosen options, configuration without seeds) of the run that a seed belongs to."""
    run = seed_folder.parent
    if not (run / "run.json").exists() or not (run / "config.json").exists():
        return None, {}
    choices = json.loads((run / "run.json").read_text())["choices"]
    config = json.loads((run / "config.json").read_text())
    for name in ("seed", "seeds", "resume", "trust"):
        config.pop(name, None)
    about = {g: choices.get(g) for g in GROUPED_BY}
    about["distillation"] = "+".join(config.get("distillation") or {}) or "none"
    return about, config


def _label(about: dict[str, Any], config: dict[str, Any], alike: list[dict[str, Any]]) -> str:
    """The options that are not off, and the keys that tell rows of the same options apart."""
    off = (None, "none", "supervised")
    parts = [str(value) for value in about.values() if value not in off]
    own, others = flat(config), [flat(c) for c in alike]
    keys = sorted({k for o in others for k in o if any(o.get(k) != x.get(k) for x in others)})
    return " ".join([" ".join(parts), *(f"{k}={own.get(k)}" for k in keys)])


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted keys."""
    if not isinstance(node, dict):
        return {prefix: json.dumps(node) if isinstance(node, list) else node}
    return {k: v for name, part in node.items()
            for k, v in flat(part, f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip

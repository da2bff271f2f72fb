"""``metrics.jsonl``: the mean over seeds of each epoch's validation score and loss."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnnscale.report.compare import mean_std
from gnnscale.report.rows import Row


@dataclass(frozen=True)
class Curve:
    """Mean and sample standard deviation by epoch; ``seconds``: mean training time until then."""

    epochs: list[int]
    mean: list[float]
    std: list[float]
    seconds: list[float]


def read(path: Path) -> dict[int, dict[str, Any]]:
    """The epochs of one seed. A line that a kill cut short is passed over; the last of one wins."""
    epochs: dict[int, dict[str, Any]] = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return epochs
    for line in lines:
        try:
            entry = json.loads(line)
            epochs[int(entry["epoch"])] = entry
        except (ValueError, TypeError, KeyError):
            continue
    return epochs


def curve(
    seeds: Sequence[dict[int, dict[str, Any]]], name: str, scale: float = 1.0
) -> Curve | None:
    """The mean over all seeds, at the epochs that every seed has; None if there are none.

    Seeds that stopped early end the curve for all: a mean over those that went on would be one
    over other seeds. The time of an epoch is the sum of ``train_s`` up to it; evaluation is in
    none.
    """
    seeds = [seed for seed in seeds if seed]
    if not seeds:
        return None
    shared = [e for e in sorted(set.intersection(*(set(seed) for seed in seeds)))
              if all(_number(seed[e].get(name)) for seed in seeds)]  # fmt: skip
    if not shared:
        return None
    stats = [mean_std([scale * seed[e][name] for seed in seeds]) for e in shared]
    clocks = [_clock(seed) for seed in seeds]
    seconds = [mean_std([clock[e] for clock in clocks])[0] for e in shared]
    return Curve(shared, [m for m, _ in stats], [s or 0.0 for _, s in stats], seconds)


def _clock(seed: dict[int, dict[str, Any]]) -> dict[int, float]:
    total, clock = 0.0, {}
    for epoch in sorted(seed):
        spent: Any = seed[epoch].get("train_s")
        total += spent if _number(spent) else 0.0
        clock[epoch] = total
    return clock


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def of(row: Row) -> list[dict[int, dict[str, Any]]]:
    """The epochs of a row's finished seeds."""
    return [read(seed.folder / "metrics.jsonl") for seed in row.done]

"""All seeds of one composition, gathered from wherever they were trained."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.report.seeds import Seed, content, folders, read

LABELLED_BY = (
    "dataset", "sampler", "architecture", "distillation", "quantization", "recipe",
)  # fmt: skip
OFF = (None, "none", "supervised")
NOT_THE_COMPOSITION = ("seed", "seeds", "resume", "trust", "run", "logger")
"""Keys that change nothing about what is trained."""


@dataclass
class Row:
    """One composition: the options chosen, the configuration without seeds, and its seeds."""

    label: str
    choices: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    seeds: list[Seed] = field(default_factory=list)

    @property
    def done(self) -> list[Seed]:
        """The finished seeds."""
        return [seed for seed in self.seeds if seed.record is not None]

    @property
    def records(self) -> list[Record]:
        """The finished seeds' records."""
        return [seed.record for seed in self.seeds if seed.record is not None]

    def numbers(self, *states: str) -> list[int]:
        """The seeds in one of these states."""
        return sorted(seed.number for seed in self.seeds if seed.state in states)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Groups and parameters by name, for grouping, selection and labels."""
        return {**flat(self.config), **self.choices}

    @property
    def about(self) -> dict[str, Any]:
        """The options that a label names."""
        return {group: self.choices.get(group) for group in LABELLED_BY}


@dataclass
class Found:
    """Rows, the messages of what could not be read, and remarks on the rows."""

    rows: list[Row]
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def collect(places: Iterable[str | Path]) -> Found:
    """One row per composition (and version of its data) below folders and globs.

    A seed that is found twice counts once, its newest record. Settings that tell rows of the same
    options apart are in their labels.

    Raises UsageError if a place is not there or there is no finished seed.
    """
    where = [str(place) for place in places]
    found = Found([])
    runs: dict[Path, tuple[dict[str, Any], dict[str, Any]] | None] = {}
    rows: dict[str, Row] = {}
    waiting: list[tuple[str, Row]] = []
    for folder in folders(where):
        run = folder.parent
        if run not in runs:
            runs[run] = _composition(run, found.broken)
        composition = runs[run]
        if composition is None:
            continue
        seed = read(folder)
        if seed.error:
            found.broken.append(seed.error)
        choices, config = composition
        about = {group: choices.get(group) for group in LABELLED_BY}
        key = json.dumps([about, _without_place(config)], sort_keys=True, default=str)
        if seed.record is None:
            waiting.append((key, Row("", choices, config, [seed])))
        else:
            version = json.dumps(seed.record.data, sort_keys=True, default=str)
            rows.setdefault(key + version, Row("", choices, config)).seeds.append(seed)
    for key, row in waiting:
        same = next((r for k, r in rows.items() if k.startswith(key)), None)
        rows.setdefault(key, row) if same is None else same.seeds.extend(row.seeds)
    found.rows = list(rows.values())
    if not any(row.records for row in found.rows):
        raise UsageError(_nothing(where, found))
    label(found.rows)
    for row in found.rows:
        found.notes += [*_once(row), *_killed(row)]
    return found


def _composition(run: Path, broken: list[str]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(chosen options, configuration without seeds) of a run folder; None if it has none."""
    if not (run / "run.json").exists() or not (run / "config.json").exists():
        return None
    path = run / "run.json"
    try:
        choices = dict(content(path)["choices"])
        path = run / "config.json"
        config = dict(content(path))
    except (OSError, ValueError, TypeError, KeyError) as error:
        broken.append(f"{path}: can't be read ({type(error).__name__}: {error})")
        return None
    for name in NOT_THE_COMPOSITION:
        config.pop(name, None)
    choices["distillation"] = "+".join(config.get("distillation") or {}) or "none"
    return choices, config


def _without_place(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folder that the data was read from."""
    dataset = config.get("dataset")
    if not isinstance(dataset, dict):
        return config
    return {**config, "dataset": {k: v for k, v in dataset.items() if k not in PLACE}}


PLACE = ("root", "download")
"""Parameters of a dataset that tell where it is, not what it is."""


def _nothing(places: Sequence[str], found: Found) -> str:
    states = [seed.state for row in found.rows for seed in row.seeds]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    text = f"{', '.join(places)}: no finished seed in there"
    text += f" ({counts})" if counts else "; `gnnscale train` makes one"
    return "\n".join([text, *found.broken])


def _once(row: Row) -> list[str]:
    """Keep one of each seed: the newest finished one, else the newest; say what was left out."""
    best: dict[int, Seed] = {}
    for seed in row.seeds:
        other = best.get(seed.number)
        rank = (seed.record is not None, seed.changed())
        if other is None or rank > (other.record is not None, other.changed()):
            best[seed.number] = seed
    again = sorted({s.number for s in row.seeds if best[s.number] is not s})
    row.seeds = [best[number] for number in sorted(best)]
    if not again:
        return []
    return [f"{row.label}: seed {seed_text(again)} was found more than once; the newest counts"]


def _killed(row: Row) -> list[str]:
    """What to do about seeds whose process is gone."""
    return [
        f"{row.label}: seed {seed.number} was killed; gnnscale train resume={seed.folder.parent}"
        for seed in row.seeds
        if seed.state == "killed"
    ]


def label(rows: Sequence[Row]) -> None:
    """Name rows by their options that are not off, and by the keys that tell equals apart."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(json.dumps(row.about, default=str), []).append(row)
    for group in alike.values():
        keys = varying([flat(row.config) for row in group])
        for row in group:
            parts = [str(value) for value in row.about.values() if value not in OFF]
            own = flat(row.config)
            row.label = " ".join([*parts, *(f"{k}={text(own.get(k))}" for k in keys)])


def varying(views: Sequence[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all mappings, but for where the data lies."""
    keys = sorted({k for view in views for k in view} - {f"dataset.{p}" for p in PLACE})
    return [k for k in keys if len({repr(view.get(k, _MISSING)) for view in views}) > 1]


_MISSING = object()


def seed_text(seeds: Sequence[int]) -> str:
    """Seeds as a range where they are one."""
    seeds = sorted(seeds)
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds)) or "-"


def text(value: Any) -> str:
    """A value as one types it: true, null, 0.01."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Nested configuration as dotted keys; entries of a list of mappings go by their place."""
    if isinstance(node, list) and any(isinstance(part, dict) for part in node):
        node = {str(place): part for place, part in enumerate(node)}
    if not isinstance(node, dict):
        return {prefix: json.dumps(node) if isinstance(node, list) else node}
    return {k: v for name, part in node.items()
            for k, v in flat(part, f"{prefix}.{name}" if prefix else name).items()}  # fmt: skip

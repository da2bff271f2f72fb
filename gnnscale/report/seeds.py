"""Seeds on disk: found below folders and globs, read once; what can't be read says why."""

import glob
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gnnscale.core.errors import UsageError
from gnnscale.core.lock import state
from gnnscale.core.record import Record
from gnnscale.report import bench

NAME = re.compile(r"seed-(\d+)")
MARKS = {"record.json", "status.json"}
STATES = ("failed", "running", "interrupted", "killed", "unreadable")
"""What a seed may be that is not finished."""


@dataclass
class Seed:
    """One seed of a run folder.

    state: finished, failed, running, interrupted, killed (no process is at it, and none said why)
    or unreadable.
    """

    number: int
    folder: Path
    state: str
    record: Record | None = None
    error: str = ""

    @cached_property
    def bench(self) -> dict[str, float]:
        """Measurements of the newest bench run of this seed, by dotted name."""
        return bench.newest(self.folder)

    def changed(self) -> float:
        """When this seed last wrote something, in seconds since 1970."""
        names = ("metrics.jsonl", *MARKS)
        return max((os.stat(p).st_mtime for p in map(self.folder.joinpath, names) if p.exists()),
                   default=0.0)  # fmt: skip


def folders(places: Iterable[str | Path]) -> list[Path]:
    """Every ``seed-<k>`` folder in or below the places, in natural order, each once.

    A place is a folder (of one seed, one run, or many runs) or a glob pattern, ``**`` included;
    patterns that the shell left alone, in quotes, are expanded here. Hidden folders and what lies
    inside a seed (its teacher) are passed over.

    Raises UsageError if a place does not exist, is a file, or a pattern matches no folder.
    """
    found: dict[str, Path] = {}
    for place in places:
        for top in _expand(str(place)):
            for here, below, files in os.walk(top):
                path = Path(here)
                if NAME.fullmatch(path.absolute().name) and MARKS & set(files):
                    found.setdefault(os.path.realpath(path), path)
                    below.clear()
                below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found.values(), key=natural)


def _expand(place: str) -> list[str]:
    if os.path.isdir(place):
        return [place]
    if os.path.exists(place):
        raise UsageError(
            f"{place}: is a file; give the run folder that it lies in, "
            f"e.g. gnnscale report {Path(place).parent}"
        )
    if not glob.has_magic(place):
        raise UsageError(f"{place}: no such folder; type gnnscale report RUN_FOLDER...")
    inside = [p for p in glob.glob(place, recursive=True) if os.path.isdir(p)]
    matches = sorted(p for p in inside if not any(map(NAME.fullmatch, Path(p).parts[:-1])))
    if not matches:
        raise UsageError(
            f"{place}: no folder fits this pattern; type gnnscale report RUN_FOLDER..."
        )
    return matches


def natural(path: Path | str) -> list[tuple[int, float, str]]:
    """A sort key that puts 2 before 10 and 0.02 before 0.1."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def read(folder: Path) -> Seed:
    """The seed in a folder; what is wrong with its record, if anything, is in ``error``."""
    match = NAME.fullmatch(folder.absolute().name)
    number = int(match[1]) if match else 0
    path = folder / "record.json"
    if path.exists():
        try:
            record = Record.load(path)
            _sound(record)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
            return Seed(number, folder, "unreadable", error=f"{path}: can't be read ({reason})")
        return Seed(number, folder, "finished", record)
    found = state(folder)
    if found == "unknown":
        text = f"{folder / 'status.json'}: can't be read"
        return Seed(number, folder, "unreadable", error=text)
    if found == "finished":
        text = f"{path}: is missing, though the seed is marked as finished"
        return Seed(number, folder, "unreadable", error=text)
    return Seed(number, folder, found)


def _sound(record: Record) -> None:
    """Raise ValueError unless the parts that every table needs are there."""
    for name in ("config", "metric", "time_s", "memory_mib", "data"):
        if not isinstance(getattr(record, name), dict):
            raise ValueError(f"'{name}' is not a mapping")
    if not isinstance(record.metric.get("name"), str):
        raise ValueError("metric.name is missing")
    score = record.metric.get("test")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(f"metric.test={score} is not a number")


def content(path: Path) -> Any:
    """A JSON file's content. Raises OSError or ValueError."""
    return json.loads(path.read_text())

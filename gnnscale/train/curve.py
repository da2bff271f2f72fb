"""``metrics.jsonl``: one line of metrics per epoch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.core.record import write_bytes

NAME = "metrics.jsonl"


def append(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Add an epoch's line."""
    with (folder / NAME).open("a") as file:
        file.write(json.dumps(metrics) + "\n")


def drop(folder: Path, first: int) -> None:
    """Drop the lines of the epochs from ``first`` on, and one that was cut short by a kill."""
    path = folder / NAME
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        write_bytes(path, "".join(s for s in lines if _epoch(s) < first).encode())


def _epoch(line: str) -> float:
    """Epoch of a line; infinite for a line that was cut short."""
    try:
        return json.loads(line)["epoch"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError):
        return math.inf

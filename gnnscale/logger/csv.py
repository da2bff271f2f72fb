"""Metrics as a table, one row per epoch."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.core.record import write_bytes
from gnnscale.logger._base import Logger


class CSV(Logger):
    """Turns ``metrics.jsonl`` into ``metrics.csv`` when the seed ends: resumes repeat no rows."""

    def open(self, folder: Path, config: Mapping[str, Any], seed: int, epoch: int) -> None:
        """Remember where to write."""
        self.folder = folder

    def close(self, finished: bool) -> None:
        """Write the table."""
        lines = self.folder / "metrics.jsonl"
        if not lines.exists():
            return
        rows = [json.loads(line) for line in lines.read_text().splitlines()]
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names)
        table.writeheader()
        table.writerows(rows)
        write_bytes(self.folder / "metrics.csv", text.getvalue().encode())

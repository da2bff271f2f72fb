"""Metrics as a table, one row per epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.logger._base import Logger


class CSV(Logger):
    """Turns ``metrics.jsonl`` into ``metrics.csv`` when the seed ends: resumes repeat no rows."""

    def open(self, folder: Path, config: Mapping[str, Any], seed: int) -> None:
        """Remember where to write."""
        self.folder = folder

    def close(self) -> None:
        """Write the table."""
        import pandas as pd

        lines = self.folder / "metrics.jsonl"
        if lines.exists():
            pd.read_json(lines, lines=True).to_csv(self.folder / "metrics.csv", index=False)

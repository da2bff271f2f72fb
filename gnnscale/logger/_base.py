"""What every logger is: a listener to a run. ``metrics.jsonl`` is written without any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.core.traits import Component


class Logger(Component):
    """Hears the metrics of each epoch and the final record."""

    def open(self, folder: Path, config: Mapping[str, Any], seed: int) -> None:
        """A seed starts, or goes on, in ``folder``."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's metrics."""

    def close(self) -> None:
        """The seed is done, or has failed."""

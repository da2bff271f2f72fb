"""What every logger is: a listener to a run. ``metrics.jsonl`` is written without any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnscale.core.record import Record
from gnnscale.core.traits import Component


class Logger(Component):
    """Hears the metrics of each epoch and the final record of one seed at a time.

    Whatever a logger raises switches it off for the rest of the seed, with a warning; training and
    the other loggers go on. Only its constructor may refuse a run.
    """

    def open(self, folder: Path, config: Mapping[str, Any], seed: int, epoch: int) -> None:
        """A seed starts in its ``folder``, or goes on with ``epoch``: later ones never were."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's metrics; ``metrics["epoch"]`` says which."""

    def record(self, record: Record) -> None:
        """The seed's result."""

    def close(self, finished: bool) -> None:
        """The seed is done, or has failed or been interrupted."""

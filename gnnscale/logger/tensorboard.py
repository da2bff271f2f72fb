"""Metrics as TensorBoard event files; read them with ``tensorboard --logdir runs``."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.logger._base import Logger


class TensorBoard(Logger):
    """Scalars per epoch and the final scores, in ``tensorboard/`` of the seed's folder.

    A resumed seed purges the steps that it trains again.

    Raises: UsageError if the tensorboard package is missing.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise UsageError(
                "logger=tensorboard: the package tensorboard is missing; type "
                "pip install 'gnnscale[tensorboard]', or choose logger=csv"
            )

    def open(self, folder: Path, config: Mapping[str, Any], seed: int, epoch: int) -> None:
        """Start an event file that goes on with ``epoch``."""
        from torch.utils.tensorboard import SummaryWriter

        where = str(folder / "tensorboard")
        self.writer = SummaryWriter(where, purge_step=epoch if epoch else None)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One scalar per metric."""
        for name, value in metrics.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, metrics["epoch"])

    def record(self, record: Record) -> None:
        """Scores of the selected weights, at the epoch they are of."""
        for name in ("train", "valid", "test"):
            self.writer.add_scalar(
                f"final/{name}", record.metric[name], record.metric["best_epoch"]
            )

    def close(self, finished: bool) -> None:
        """Write what is left."""
        self.writer.close()

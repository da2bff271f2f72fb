"""Metrics for Weights & Biases; offline unless asked otherwise, so no account is needed."""

import hashlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gnnscale.core.errors import UsageError
from gnnscale.core.record import Record
from gnnscale.logger._base import Logger

PATIENCE_S = 30
"""How long to wait for the service or its server before the run goes on without it."""


class WandB(Logger):
    """One W&B run per seed, finished with it, also in sweeps where one process trains many.

    The run's id is made of the run folder and the seed, so that a resumed seed goes on with the
    same W&B run. Under a W&B agent the agent names the run, and since every key is accepted as
    ``key=value``, its program line is ``gnnscale train ${args_no_hyphens}``.

    Args:
        mode: offline (files below the seed's folder, ``wandb sync`` sends them), online, disabled.
        project, entity: where runs go. group: None for the name of the run folder.
        tags: of every run.

    Raises: UsageError if the wandb package is missing.
    """

    def __init__(
        self,
        mode: Literal["online", "offline", "disabled"] = "offline",
        project: str = "gnnscale",
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
    ):
        if find_spec("wandb") is None:
            raise UsageError(
                "logger=wandb: the package wandb is missing; type pip install 'gnnscale[wandb]', "
                "or choose logger=csv"
            )
        self.mode, self.project, self.entity = mode, project, entity
        self.group, self.tags = group, tags or []
        self.run: Any = None

    def open(self, folder: Path, config: Mapping[str, Any], seed: int, epoch: int) -> None:
        """Start the seed's run, or go on with it."""
        import wandb

        name = hashlib.sha256(f"{folder.resolve()}".encode()).hexdigest()[:16]
        agent = "WANDB_SWEEP_ID" in os.environ
        online = self.mode == "online"
        self.run = wandb.init(
            mode=self.mode, project=self.project, entity=self.entity,
            group=self.group or folder.parent.name, tags=self.tags,
            id=None if agent else name, resume="allow" if online and not agent else None,
            name=None if agent else f"{folder.parent.name}/seed-{seed}",
            dir=str(folder), config={**config, "seed": seed}, reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", init_timeout=PATIENCE_S, login_timeout=PATIENCE_S,
                x_disable_stats=True,
            ),
        )  # fmt: skip

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch."""
        self.run.log(dict(metrics), step=metrics["epoch"])

    def record(self, record: Record) -> None:
        """The result, as the run's summary."""
        flat = {f"final/{name}": record.metric[name] for name in ("train", "valid", "test")}
        flat |= {"parameters": record.parameters, "model_bytes": record.model_bytes,
                 "epoch_s": record.time_s["epoch_median"],
                 "peak_mib": record.memory_mib["rss_peak"]}  # fmt: skip
        self.run.summary.update(flat)

    def close(self, finished: bool) -> None:
        """Finish the run, saying whether it failed."""
        self.run.finish(exit_code=0 if finished else 1)

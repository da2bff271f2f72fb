"""A training in parts, each a run with a folder, a checkpoint and loggers' lines of its own."""

import json
from collections.abc import Mapping
from typing import Any

from gnnscale.core.record import Record, write_bytes
from gnnscale.train import checkpoint
from gnnscale.train.listeners import Listeners
from gnnscale.train.loop import Run


class Relay(Listeners):
    """Passes epochs of one part on to a run's loggers, counted over all parts.

    Args:
        behind: the run's loggers. name: of what a part is one. part: its number. first: epochs of
            the parts before.
    """

    def __init__(self, behind: Listeners, name: str, part: int, first: int):
        super().__init__(())
        self.behind, self.name, self.part, self.first = behind, name, part, first

    def log(self, metrics: Mapping[str, Any]) -> None:
        """One epoch's metrics."""
        told = {**metrics, "epoch": self.first + metrics["epoch"], self.name: self.part}
        self.behind.log(told)

    def record(self, record: Record) -> None:
        """The whole run's, not a part's."""


def join(run: Run, done: list[tuple[Run, int]], name: str) -> None:
    """Leave a run as ``fit`` leaves one: metrics of all parts, a checkpoint, the last selection.

    done: the parts in order, each with the epochs before it. name: of what a part is one.
    """
    lines = []
    for i, (part, first) in enumerate(done):
        for line in (part.folder / "metrics.jsonl").read_text().splitlines():
            said = json.loads(line)
            lines.append(json.dumps({**said, "epoch": said["epoch"] + first, name: i}))
    write_bytes(run.folder / "metrics.jsonl", "".join(s + "\n" for s in lines).encode())
    last, first = done[-1]
    state = last.patience.state()
    run.patience.load({**state, "best_epoch": state["best_epoch"] + first})
    run.best, run.epoch, run.finished = None, first + last.epoch, True
    run.last_loss = last.last_loss
    run.save()
    for part, _ in done:
        checkpoint.discard(part.checkpoint_path)

"""Early stopping, the progress bar, and a Ctrl-C that loses nothing."""

import logging
import signal
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gnnscale.train.meter import Meter

log = logging.getLogger("gnnscale")


class Patience:
    """Remembers the best evaluation and how long ago the last gain was.

    ``score``: a gain is a higher score. ``tied``, as the authors of CPF and GLNN do it: one that is
    as high counts too, so that of equal scores the last is kept. ``loss``: a gain is a lower loss.
    ``both``, as the authors of GAT do it (Velickovic et al., ICLR 2018, sec. 3.3): a gain is
    either, a tie included, and weights are kept where both are at their best together. ``ranked``,
    as the authors of APPNP do it: patience as for ``both``; weights of the highest score, of the
    lower loss where tied.

    Args:
        limit: evaluations without a gain after which training stops; None for no limit.
        min_delta: a gain must be larger than this.
        monitor: score, tied, loss, both or ranked.
    """

    def __init__(self, limit: int | None, min_delta: float, monitor: str = "score"):
        self.limit, self.min_delta, self.monitor = limit, min_delta, monitor
        self.best, self.best_epoch, self.stale = float("-inf"), -1, 0
        self.loss: float | None = None  # of the weights that are kept, where it is looked at
        self.top, self.least = float("-inf"), float("inf")  # whether kept or not

    def hear(self, score: float, epoch: int, loss: float = float("nan")) -> tuple[bool, bool]:
        """(are these weights to be kept, is patience at its end)."""
        slack = self.min_delta if self.best_epoch >= 0 else 0.0
        if self.monitor in ("both", "ranked"):
            higher, lower = score >= self.top + slack, loss <= self.least - slack
            gain, better = higher or lower, higher and lower
            if self.monitor == "ranked":
                least = float("inf") if self.loss is None else self.loss
                tied = score == self.best and loss < least - slack
                better = score > self.best + slack or tied
        elif self.monitor == "tied":
            gain = better = score >= self.top + slack
        else:
            higher, lower = score > self.top + slack, loss < self.least - slack
            gain = better = lower if self.monitor == "loss" else higher
        if gain:
            self.stale = 0
            self.top, self.least = max(self.top, score), min(self.least, loss)  # NaN is neither
        else:
            self.stale += 1
        if better:
            self.best, self.best_epoch = score, epoch
            self.loss = None if loss != loss else loss
        return better, self.limit is not None and self.stale >= self.limit

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "best_epoch": self.best_epoch, "stale": self.stale,
                "top": self.top, "least": self.least, "loss": self.loss}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.best_epoch, self.stale = state["best"], state["best_epoch"], state["stale"]
        self.top, self.least = state.get("top", self.best), state.get("least", self.least)
        self.loss = state.get("loss", self.loss)


class Shown(Protocol):
    """What a run must have for its progress to be told."""

    epoch: int
    finished: bool
    last_loss: float
    meter: Meter
    patience: Patience


class Progress:
    """A bar with loss, score, epoch time and ETA on a terminal, plain lines elsewhere.

    While it is open the first Ctrl-C asks the loop to stop after the epoch in progress; the second
    one interrupts at once.

    Args:
        epochs: how many there are at most. label: what is being trained.
    """

    LINES = 10
    """Plain lines over a whole run, besides one every ``EVERY_S`` seconds."""
    EVERY_S = 30.0

    def __init__(self, epochs: int, label: str):
        self.epochs, self.label = epochs, label
        self.asked_to_stop = False
        self.bar: Bar | None = None
        self.shown = time.monotonic()
        self.count = 0

    def __enter__(self) -> "Progress":
        self.opened = time.monotonic()
        try:
            self.before = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # not in the main thread: whoever is there owns the signal
            self.before = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/"
                "{task.total}"), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
            )  # fmt: skip
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.epochs, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
        if self.bar is not None:
            self.bar.stop()

    def _interrupt(self, *_: object) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        log.warning("finishing this epoch to save it; Ctrl-C again stops at once")

    def show(self, run: Shown) -> None:
        """Tell how the epoch went."""
        meter, best = run.meter, run.patience
        self.count += 1
        text = f"{meter.epochs[-1]:.3f} s/epoch"
        if best.best_epoch >= 0:  # trainer.evaluate_every may be more than one
            text = f"best valid {abs(best.best):.4f} (epoch {best.best_epoch}) {text}"
        if self.bar is not None:
            self.bar.update(self.task, completed=run.epoch, text=f"loss {run.last_loss:.4f} {text}")
            return
        due = run.epoch % max(1, self.epochs // self.LINES) == 0 or run.finished
        if due or time.monotonic() - self.shown > self.EVERY_S:
            self.shown = time.monotonic()
            left = (self.epochs - run.epoch) * (self.shown - self.opened) / self.count
            log.info(
                "%s epoch %d/%d loss %.4f %s%s", self.label, run.epoch, self.epochs,
                run.last_loss, text, "" if run.finished else f" ETA {left:.0f} s",
            )  # fmt: skip

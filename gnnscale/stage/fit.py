"""Train the model."""

from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run, fit
from gnnscale.train.progress import Progress


class Fit(Stage):
    """Prepare the sampler, run the loop, keep the selected weights."""

    def __call__(self, run: Run) -> None:
        """Train ``run`` to its end, from its checkpoint if it has one."""
        with run.meter.phase("prepare"):
            run.prepare()
        run.start()
        with run.meter.phase("fit"):
            fit(run, self.progress(run))
        run.select()

    def progress(self, run: Run) -> Progress:
        """How its progress is told."""
        return Progress(run.trainer.epochs, f"seed {run.seed}")

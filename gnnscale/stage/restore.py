"""Take the weights of a finished run instead of training."""

from pathlib import Path

from gnnscale.core.errors import UsageError
from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run


class Restore(Stage):
    """Put the selected weights of the same seed of another run folder into the model.

    Args:
        run: the finished run folder.

    Raises: UsageError if there is none.
    """

    def __init__(self, run: str | None):
        if run is None:
            raise UsageError(
                "run=null: recipe=evaluate scores a finished run again; type gnnscale train "
                "recipe=evaluate run=FOLDER"
            )
        self.run = run

    def __call__(self, run: Run) -> None:
        """Load them."""
        run.restore(Path(self.run) / f"seed-{run.seed}")
        run.notes.append(f"weights of {self.run}, not trained here")

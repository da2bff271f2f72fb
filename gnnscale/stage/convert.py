"""Make an integer model of a finished run instead of training."""

from pathlib import Path

from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Trait, traits
from gnnscale.stage._base import Stage
from gnnscale.train import checkpoint
from gnnscale.train.loop import Run


class Convert(Stage):
    """Fill the integer sites with the codes of the same seed's selected weights in another run.

    Args:
        run: the finished run folder, trained with fake quantization.

    Raises: UsageError if there is none.
    """

    needs = (traits(Trait.CODES),)

    def __init__(self, run: str | None):
        if run is None:
            raise UsageError(
                "run=null: an integer model is made of a finished run; type gnnscale convert "
                "run=FOLDER"
            )
        self.run = run

    def __call__(self, run: Run) -> None:
        """Convert and keep the result in the seed's checkpoint."""
        state = checkpoint.load(Path(self.run) / f"seed-{run.seed}" / "checkpoint.pt")
        trained = state["model"] if state["best"] is None else state["best"]
        run.quantizer.convert(run.model, trained)
        run.kept, run.extra = dict(state.get("kept", {})), dict(state.get("extra", {}))
        run.epoch, run.finished = state["epoch"], True
        run.patience.load(state["patience"])
        run.notes.append(f"converted from {self.run}, not trained here")
        checkpoint.save(
            run.checkpoint_path,
            {
                "epoch": run.epoch, "finished": True, "model": run.model.state_dict(),
                "best": None, "patience": run.patience.state(), "kept": run.kept,
                "extra": run.extra,
            },
            last=True,
        )  # fmt: skip

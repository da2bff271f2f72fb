"""Set the ranges of a trained model's codes."""

import torch

from gnnscale.core.traits import Trait, traits
from gnnscale.stage._base import Stage
from gnnscale.train.loop import Run


class Calibrate(Stage):
    """From here on the run predicts with codes, whose ranges are those of one exact pass in float
    over the graph that training sees, in evaluation mode (of graphs: over the training ones).

    No label is read and no weight is changed.
    """

    gives = traits(Trait.CALIBRATION)
    needs = (traits(Trait.RANGES),)
    lasting = True

    def __call__(self, run: Run) -> None:
        """Calibrate ``run``, or only turn its codes on if that was done before."""
        if not run.kept.get("calibrated"):
            data = run.train_data
            rows = torch.arange(data.items) if data.offsets is None else data.splits["train"]
            run.quantizer.watch(run.model, True)
            with run.meter.phase("calibrate"):
                run.inference(run.model, data, rows, run.device)
            run.quantizer.watch(run.model, False)
            run.best = {k: v.clone() for k, v in run.model.state_dict().items()}
            run.kept["calibrated"] = True
            run.save()
        run.quantizer.release(run.model)

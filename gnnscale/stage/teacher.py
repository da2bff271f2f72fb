"""Train the teacher, or read it from a finished run, and tabulate what it says of every node."""

import torch

from gnnscale.core.data import Teacher as Table
from gnnscale.core.errors import UsageError
from gnnscale.core.traits import Trait, traits
from gnnscale.stage._base import Stage
from gnnscale.train import checkpoint
from gnnscale.train.loop import Run


class Teacher(Stage):
    """Fills ``run.teacher``: logits of the teacher on the training graph, indexed by node.

    The teacher is frozen, in evaluation mode and sees exactly what training may see, so that no
    held-out node of inductive data reaches a soft label. The table is kept in the seed's folder
    and read again when the run is resumed.

    Raises: UsageError for a teacher that predicts with validation labels (Correct & Smooth may):
        the student would have them from it, and its own selection would mean nothing.
    """

    gives = traits(Trait.TEACHER)

    def __call__(self, run: Run) -> None:
        """Train or load, then tabulate."""
        assert run.make_teacher is not None  # the composition check guarantees it
        path = run.folder / "teacher.pt"
        if not path.exists():
            teacher = run.make_teacher(run.folder / "teacher")
            if getattr(teacher.inference, "validation_labels", False):
                raise UsageError(
                    f"teacher={teacher.folder}: predicts with validation labels, which would reach "
                    "the student and its selection; train it with validation_labels: false"
                )
            nodes = torch.arange(run.train_data.items)
            logits = teacher.inference(teacher.model, run.train_data, nodes, run.device)
            checkpoint.save(path, {"logits": logits.cpu().clone(), "source": str(teacher.folder)})
        table = checkpoint.load(path)
        run.teacher = Table(logits=table["logits"], source=table["source"])

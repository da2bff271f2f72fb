"""What every comparing loss is: a term, added to the supervised loss."""

from typing import Literal

from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData, Teacher
from gnnscale.core.traits import Component


class Term(nn.Module, Component):
    """One loss. It may own parameters (projection heads); they join the optimizer.

    nodes: the seeds it wants: ``train`` (labelled ones), ``observed`` (every node that training
    may see) or ``all``. hard: the factor that it leaves to the supervised loss; factors multiply.
    """

    nodes: Literal["train", "observed", "all"] = "train"
    hard: float = 1.0

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Take what the term needs (the teacher's table, hooks) before training starts.

        ``data`` and the teacher's rows are in the numbering of the training graph.
        """

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

"""What every comparing loss is: a term, added to the supervised loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.teacher import Rows, Teacher
from gnnscale.core.traits import Component

Nodes = Literal["train", "observed", "unlabeled", "all"]


def chosen(nodes: Nodes, batch: Batch) -> Tensor:
    """[n_seed] bool: the seeds of a batch that ``nodes`` names."""
    if nodes == "train":
        return batch.labeled
    if nodes != "unlabeled":
        return torch.ones_like(batch.labeled)
    given = batch.extra.get("given")  # labels that are input are known, too
    return ~batch.labeled if given is None else ~(batch.labeled | given[batch.rows])


class Term(nn.Module, Component):
    """One loss. It may own parameters (projection heads); they join the optimizer.

    nodes: the seeds it wants: ``train`` (labelled ones), ``observed`` (every node that training
    may see), ``unlabeled`` (observed ones without a training label) or ``all`` (every node; data
    that training may not see whole refuse it). hard: the factor that it leaves to the supervised
    loss; factors multiply. taps: the hidden levels of the teacher that it reads, and of what.
    levels: whether it reads hidden levels of the student, which are not kept for others. measures:
    whether ``size`` must be called; then it reads levels, too.
    """

    nodes: Nodes = "train"
    hard: float = 1.0
    taps: tuple[tuple[int, Rows], ...] = ()
    levels: bool = False
    measures: bool = False

    def size(self, widths: tuple[int, ...]) -> None:
        """Learn the width of each of the student's hidden levels; called before ``attach``."""

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Take what the term needs (the teacher's table, hooks) before training starts.

        ``data`` and the teacher's rows are in the numbering of the training graph.
        """

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

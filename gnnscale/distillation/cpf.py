"""CPF's loss: the student's distribution on nodes without a label is the teacher's.

Yang, Liu & Shi, WWW 2021, arXiv:2103.02885, and the authors' code.
"""

import torch
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.teacher import Table, Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.distillation._base import Nodes, Term, chosen

LEAST = 1e-12
"""Under the root, whose gradient would not be finite where student and teacher agree."""


class CPF(Term):
    """|| softmax(z_S)[U] - softmax(z_T)[U] ||_F over the nodes U without a training label; there is
    no supervised loss.

    The norm is one for all nodes of a batch, neither squared nor averaged, as in the authors' code
    (the paper writes a sum over nodes), so that under a sampler it is not an estimate of the whole.
    The teacher's probabilities are not rounded to four decimals as in the code's files.

    Args:
        nodes: U; see ``Nodes``.

    Raises: UsageError for tasks that are not of one class per row.
    """

    needs = (traits(Trait.TEACHER),)
    hard = 0.0

    def __init__(self, nodes: Nodes = "unlabeled"):
        super().__init__()
        self.nodes = nodes

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Keep the teacher's probabilities."""
        assert teacher is not None  # the composition check guarantees it
        if data.task.kind != "single":
            raise UsageError(
                f"distillation=cpf: compares distributions over classes, and the task is of kind "
                f"{data.task.kind}; change to distillation=logit, or to a dataset of one class per "
                "node"
            )
        self.table = Table(teacher.logits)

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The norm over a batch, a scalar."""
        gap = out.logits.softmax(-1) - self.table(batch.ids).to(out.logits.dtype).softmax(-1)
        squares = gap[chosen(self.nodes, batch)].square().sum()
        return torch.sqrt(squares + LEAST) - LEAST**0.5

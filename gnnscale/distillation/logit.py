"""Logit distillation (Hinton et al.) on nodes."""

import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.teacher import Table, Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Positive, Share
from gnnscale.distillation._base import Nodes, Term, chosen


class Logit(Term):
    """L = (1 - alpha) CE + alpha T^2 mean_i KL(softmax(z_T / T)_i || softmax(z_S / T)_i).

    Hinton, Vinyals & Dean, 2015, arXiv:1503.02531. For multi-label tasks the soft term is the
    binary cross-entropy with targets sigmoid(z_T), summed over classes. The KL is summed over
    classes and averaged over nodes ("batchmean"); published code that divides by the classes too
    has an effective alpha C times smaller.

    Args:
        alpha: weight of the soft term; the supervised loss keeps 1 - alpha.
        temperature: T.
        nodes: which nodes carry the soft term: labelled ones (train), every one that training
            may see (observed), those of them without a label (unlabeled), or every node (all).
    """

    needs = (traits(Trait.TEACHER),)

    def __init__(
        self,
        alpha: Share = 0.5,
        temperature: Positive = 1.0,
        nodes: Nodes = "observed",
    ):
        super().__init__()
        self.alpha, self.temperature, self.nodes = alpha, temperature, nodes
        self.hard = 1 - alpha

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Keep the teacher's logits, a constant."""
        assert teacher is not None  # the composition check guarantees it
        self.kind = data.task.kind
        self.table = Table(teacher.logits)

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The soft term of a batch, a scalar."""
        said = self.table(batch.ids)  # [n_seed, C]
        if self.kind == "multi":
            soft = F.binary_cross_entropy_with_logits(out.logits, said.sigmoid(), reduction="none")
            each = soft.sum(-1)
        else:
            t = self.temperature
            target, given = F.log_softmax(said / t, -1), F.log_softmax(out.logits / t, -1)
            each = t * t * F.kl_div(given, target, reduction="none", log_target=True).sum(-1)
        return self.alpha * batch.mean(each, chosen(self.nodes, batch))

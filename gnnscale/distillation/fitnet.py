"""FitNets' hint: the student's hidden rows are made to agree with the teacher's.

Romero et al., ICLR 2015, arXiv:1412.6550, in the form of Joshi et al., arXiv:2111.04964: rows of
length 1, a head for each of the two.
"""

import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.teacher import Rows
from gnnscale.core.values import Count, NonNegative
from gnnscale.distillation._base import Nodes
from gnnscale.distillation._features import Features, average


class FitNet(Features):
    """weight * mean_i (1/P) ||p_i / ||p_i|| - q_i / ||q_i|| ||_2^2, p and q the rows of student and
    teacher behind a head for each.

    Both heads are trained with the student, so that the loss can also fall by their collapse; it is
    one term of a sum, and the accuracy is what counts.

    Args:
        weight: beta; 1e3 on arXiv with GCN. projection: P. Others: ``Features``.
    """

    def __init__(
        self,
        weight: NonNegative = 1000.0,
        projection: Count = 128,
        level: int = -1,
        teacher_level: int = -1,
        rows: Rows = "items",
        nodes: Nodes = "train",
    ):
        super().__init__(weight, level, teacher_level, rows, nodes, samples=0)
        self.projection = projection

    def compare(self, h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """Squared distance per entry of the rows of length 1."""
        return average((F.normalize(h) - F.normalize(t)).square().mean(1), w)

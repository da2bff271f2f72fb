"""Attention transfer: which nodes are excited, not how.

Zagoruyko & Komodakis, ICLR 2017, arXiv:1612.03928, in the form of Joshi et al., arXiv:2111.04964.
"""

import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.teacher import Rows
from gnnscale.core.values import NonNegative
from gnnscale.distillation._base import Nodes
from gnnscale.distillation._features import Features, average


class Attention(Features):
    """weight * mean_i (a_i / ||a||_2 - b_i / ||b||_2)^2, a_i = sum_d h_id^2 of the student, b of
    the teacher; norms over the nodes that take part.

    Needs no head, and widths may differ. Its scale falls as 1 / n with the number of nodes, so
    that a weight of one data set says nothing about another.

    Args:
        weight: beta; 1e5 on arXiv with GCN. Others: ``Features``.
    """

    def __init__(
        self,
        weight: NonNegative = 1000.0,
        level: int = -1,
        teacher_level: int = -1,
        rows: Rows = "items",
        nodes: Nodes = "train",
    ):
        super().__init__(weight, level, teacher_level, rows, nodes, samples=0)

    def compare(self, h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """Squared difference of the two maps."""
        a, b = (F.normalize(rows.square().sum(1), dim=0) for rows in (h, t))
        return average((a - b).square(), w)

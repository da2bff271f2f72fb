"""Global structure preservation: all pairwise similarities agree.

Joshi et al., 2021, arXiv:2111.04964, sec. 3 (GSP), and the authors' code.
"""

from torch import Tensor

from gnnscale.core.teacher import Rows
from gnnscale.core.values import NonNegative, Whole
from gnnscale.distillation._base import Nodes
from gnnscale.distillation._features import Features
from gnnscale.distillation._kernels import KERNELS, Similarity


class GSP(Features):
    """weight * mean_ij (k(p_i, p_j) - k(q_i, q_j))^2 over all pairs of the rows that take part.

    Departs from the authors' code: distances are made from products, so memory is samples^2 and not
    samples^2 P. Pairs are not corrected for the sampler's bias.

    Args:
        weight: beta. kernel: see ``KERNELS``. projection: P, a trained head for each of the two;
            0: rows as they are. samples: rows drawn in every step where there are more; 0: all.
            Others: ``Features``.
    """

    def __init__(
        self,
        weight: NonNegative = 100.0,
        kernel: Similarity = "cosine",
        projection: Whole = 0,
        samples: Whole = 4096,
        level: int = -1,
        teacher_level: int = -1,
        rows: Rows = "items",
        nodes: Nodes = "train",
    ):
        super().__init__(weight, level, teacher_level, rows, nodes, samples)
        self.kernel, self.projection = KERNELS[kernel], projection

    def compare(self, h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """Squared difference of the two similarity matrices."""
        return (self.kernel.matrix(h) - self.kernel.matrix(t)).square().mean()

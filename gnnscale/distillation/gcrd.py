"""Graph contrastive representation distillation: a node's student row finds its teacher row.

Joshi et al., 2021, arXiv:2111.04964, sec. 4 (G-CRD), and the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gnnscale.core.teacher import Rows
from gnnscale.core.values import Count, NonNegative, Positive, Whole
from gnnscale.distillation._base import Nodes
from gnnscale.distillation._features import Features, average


class GCRD(Features):
    """weight * mean_i -log( exp(p_i . q_i / tau) / sum_j exp(p_i . q_j / tau) ), rows p and q of
    length 1, behind a trained head for each of student (p) and teacher (q).

    Negatives are the other rows that were drawn; there is no memory bank, and classes are not
    looked at.

    Args:
        weight: beta. temperature: tau. projection: P. samples: rows drawn in every step where there
            are more; 0: all. Others: ``Features``.
    """

    def __init__(
        self,
        weight: NonNegative = 0.1,
        temperature: Positive = 0.075,
        projection: Count = 256,
        samples: Whole = 16384,
        level: int = -1,
        teacher_level: int = -1,
        rows: Rows = "items",
        nodes: Nodes = "train",
    ):
        super().__init__(weight, level, teacher_level, rows, nodes, samples)
        self.temperature, self.projection = temperature, projection

    def compare(self, h: Tensor, t: Tensor, w: Tensor) -> Tensor:
        """InfoNCE with the student as anchor."""
        logits = F.normalize(h) @ F.normalize(t).T / self.temperature  # [n, n]
        own = torch.arange(len(h), device=h.device)
        return average(F.cross_entropy(logits, own, reduction="none"), w)

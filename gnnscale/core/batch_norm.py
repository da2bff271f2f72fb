"""Batch normalisation of rows, also of batches that hold fewer than two of them."""

import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.ops import full


class RowNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over all dimensions but the last, in at least float32.

    A training batch of one row, or none, has no variance; tracked statistics stand in for it. Such
    batches occur where rows are edges of a sample.

    Shapes: x [..., D] -> the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x`` normalised per column."""
        rows = full(x).reshape(-1, self.num_features)
        if self.training and len(rows) < 2:
            z = F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            z = super().forward(rows)
        return z.view(x.shape)

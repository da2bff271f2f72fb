"""What a model makes of a subgraph per root: its features, its readout, several of them as one.

Zeng et al., NeurIPS 2021, arXiv:2201.07858 (shaDow-GNN).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import Dropout, pooled
from gnnscale.architecture._normed import Normed
from gnnscale.core.batch import Batch
from gnnscale.core.ops import full
from gnnscale.core.site import Dense
from gnnscale.core.sparse import SparseRows, dense


class Coded(nn.Module):
    """x + V c + v: a linear map of the one-hot distances c added to the features x.

    Args:
        features: of x and c together. codes: of c.

    Shapes: [x || c] [n, features], dense or sparse rows -> [n, features - codes].
    """

    def __init__(self, features: int, codes: int):
        super().__init__()
        self.map = Dense(codes, features - codes)

    def forward(self, x: Tensor | SparseRows) -> Tensor:
        """The features with the codes in them."""
        x, c = dense(x).split([self.map.out_features, self.map.in_features], 1)
        return x + self.map(c)


class Readout(nn.Module):
    """norm(act(W dropout([r || p]) + b)), r the root's rows, p its subgraph's pooled ones.

    Of the outputs of all layers where there is a residue: each is pooled, then all are combined.
    Without a pool (``center``), r alone.

    Args:
        kind: center, mean, max or sum. residue: none, max, sum or concat. depth: how many outputs
            h holds side by side. width: of each and of the result. drop: rate. act, norm: as in
            ``Normed``.

    Shapes: h [n_src, depth width] of a batch with a segment -> [n_seed, width].
    """

    def __init__(
        self, kind: str, residue: str, depth: int, width: int, drop: float, act: str, norm: str
    ):
        super().__init__()
        self.kind, self.residue, self.depth = kind, residue, depth
        times = (1 if kind == "center" else 2) * (depth if residue == "concat" else 1)
        self.drop, self.map = Dropout(drop), Normed(times * width, width, act, norm)

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        """What the classifier reads of each seed."""
        found = [full(h)[batch.rows]]
        if self.kind != "center":
            found.append(pooled(self.kind, h, batch))
        return self.map(self.drop(torch.cat([self.combined(z) for z in found], 1)))

    def combined(self, z: Tensor) -> Tensor:
        """The outputs of all layers as one. [n, depth width] -> [n, width], or as it is."""
        if self.residue in ("none", "concat"):
            return z
        each = z.view(len(z), self.depth, -1)
        return each.amax(1) if self.residue == "max" else each.sum(1)


class Ensemble(nn.Module):
    """sum_i w_i h_i over the branches i, w = softmax_i(q . LeakyReLU_0.2(W h_i + b)), per root.

    Args:
        width: of every h_i.

    Shapes: branches of [n, D] -> [n, D].
    """

    def __init__(self, width: int):
        super().__init__()
        self.map = Dense(width, width, rows="dst")
        self.q = nn.Parameter(torch.ones(width))

    def weights(self, h: Tensor) -> Tensor:
        """w of [n, branches, D] rows: [n, branches], summing to 1."""
        return (F.leaky_relu(self.map(h), 0.2) @ self.q).softmax(1)

    def forward(self, branches: list[Tensor]) -> Tensor:
        """The branches weighed."""
        h = torch.stack(branches, 1)  # [n, branches, D]
        return (self.weights(h).unsqueeze(2) * h).sum(1)

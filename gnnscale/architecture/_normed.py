"""Maps whose layer norm stands behind the activation, as in GraphSAINT and shaDow-GNN."""

import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Dropout
from gnnscale.core.hop import Hop
from gnnscale.core.site import Dense, Rows
from gnnscale.core.sparse import SparseRows

EPS = 1e-9
"""Beside the variance in the norm, of both papers' code."""


class Normed(nn.Module):
    """y = norm(act(h W + b)); norm: (z - mean) / sqrt(var + 1e-9) * scale + offset over a row.

    Args:
        d_in, d_out: sizes. act: a name in ``ACTIVATIONS``. norm: ``layer`` or ``none``. rows: whose
            rows the map reads, for quantizers.

    Shapes: h [n, d_in], dense or sparse rows -> [n, d_out].
    """

    def __init__(self, d_in: int, d_out: int, act: str, norm: str, rows: Rows = "dst"):
        super().__init__()
        self.map = Dense(d_in, d_out, rows=rows)
        nn.init.xavier_uniform_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.act = ACTIVATIONS[act]()
        self.norm = nn.LayerNorm(d_out, EPS) if norm == "layer" else nn.Identity()

    def forward(self, h: Tensor | SparseRows, hop: Hop | None = None) -> Tensor:
        """The whole map."""
        return self.finish(self.map(h, hop))

    def finish(self, z: Tensor) -> Tensor:
        """What follows the product: norm(act(z))."""
        return self.norm(self.act(z))


class Unit(nn.Module):
    """Logits of rows scaled to length 1: y = norm(dropout(h / ||h||_2) W + b).

    Args:
        d_in: width. classes: C. drop: rate. norm: ``layer`` or ``none``.

    Shapes: h [n, d_in] -> [n, C].
    """

    def __init__(self, d_in: int, classes: int, drop: float, norm: str):
        super().__init__()
        self.drop, self.last = Dropout(drop), Normed(d_in, classes, "none", norm)

    def forward(self, h: Tensor) -> Tensor:
        """Shapes: [n, d_in] -> [n, C]."""
        return self.last(self.drop(F.normalize(h)))

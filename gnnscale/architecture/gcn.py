"""Graph convolutional network."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import Model, glorot
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class GCNConv(nn.Module):
    """h_i' = sum_j w_ij W h_j + b, with w = D~^-1/2 (A + I) D~^-1/2 given by the hop.

    Kipf & Welling, ICLR 2017, arXiv:1609.02907, eq. 2. The product with W is taken on the narrower
    side of the aggregation, which changes nothing but the cost.

    Args:
        d_in, d_out: feature sizes.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.weight = glorot(d_in, d_out)
        self.bias = nn.Parameter(torch.zeros(d_out))
        self.q_input, self.q_weight = Site("input", "src"), Site("weight")
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        w = self.q_weight(self.weight)
        if len(w) >= w.shape[1] or isinstance(h, SparseRows):
            z = hop.reduce(lambda h: self.q_message(self.q_input(h, hop) @ w, hop), h)
            z = self.q_aggregate(z, hop)
        else:
            z = hop.reduce(lambda h: self.q_message(h, hop), h)
            z = self.q_input(self.q_aggregate(z, hop), hop) @ w
        return self.q_update(z + self.bias, hop)


class GCN(Model):
    """Graph convolutions with symmetric normalisation.

    Kipf & Welling, ICLR 2017, arXiv:1609.02907: two layers of 16, dropout before each.

    Args:
        shape: input and output sizes.
        hidden: width. depth: number of convolutions. dropout: rate before each convolution (with a
            stem: after each activation). act, norm, residual, stem: see ``Model.stack``.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 64,
        depth: Count = 2,
        dropout: Rate = 0.5,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "batch", "layer"] = "none",
        residual: bool = False,
        stem: bool = False,
        input_dropout: Rate | None = None,
    ):
        super().__init__()
        self.need = Need(depth, operator="sym", loops="diag")
        self.stack(
            shape, lambda d_in, d_out, last: GCNConv(d_in, d_out), hidden=hidden, depth=depth,
            dropout=dropout, act=act, norm=norm, residual=residual, stem=stem,
            input_dropout=input_dropout,
        )  # fmt: skip

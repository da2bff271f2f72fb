"""Graph convolutional network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import glorot
from gnnscale.architecture._stack import Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops.product import product, shifted
from gnnscale.core.site import Site
from gnnscale.core.sparse import SparseRows


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
        self.q_message = Site("message", "src", scaled=True)
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        w = self.q_weight(self.weight)
        if len(w) >= w.shape[1] or isinstance(h, SparseRows):
            z = hop.reduce(lambda h: self.q_message(product(self.q_input(h, hop), w), hop), h)
            z = shifted(self.q_aggregate(z, hop), self.bias)
        else:
            z = hop.reduce(lambda h: self.q_message(h, hop), h)
            z = product(self.q_input(self.q_aggregate(z, hop), hop), w, self.bias)
        return self.q_update(z, hop)


@dataclass(eq=False, repr=False)
class GCN(Stack):
    """Graph convolutions with symmetric normalisation.

    Kipf & Welling, ICLR 2017, arXiv:1609.02907: two layers of 16, dropout before each.

    Args: those of ``Stack``.
    """

    def asks(self) -> Need:
        """S = D~^-1/2 (A + I) D~^-1/2."""
        return Need(self.depth, operator="sym", loops="diag")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return GCNConv(d_in, d_out)

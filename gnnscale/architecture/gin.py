"""Graph isomorphism network."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import NORMS
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.product import product, shifted
from gnnscale.core.site import Dense, Site, free


class GINConv(nn.Module):
    """h_i' = MLP((1 + eps) h_i + sum_j h_j), MLP = Linear, norm, ReLU, Linear.

    Xu, Hu, Leskovec & Jegelka, ICLR 2019, arXiv:1810.00826, eq. 4.1.

    Args:
        d_in, d_out: feature sizes. width: hidden size of the MLP. norm: its normalisation.
        train_eps: learn eps (starting from 0) or keep it at 0.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, width: int, norm: str, train_eps: bool):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1), requires_grad=train_eps)
        self.mlp = nn.Sequential(
            Dense(d_in, width, rows="dst"), NORMS[norm](width), nn.ReLU(),
            Dense(width, d_out, rows="dst"),
        )  # fmt: skip
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        if self.takes_sparse:
            return self._narrow(hop, h)
        z = self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)
        return self.q_update(self.mlp((1 + self.eps) * first(h, hop.graph.n_dst) + z), hop)

    @property
    def takes_sparse(self) -> bool:
        """Whether the MLP's first map comes before the sum, with which it commutes.

        It does where it makes rows shorter and no quantizer stands between the two.
        """
        shorter = self.mlp[0].out_features < self.mlp[0].in_features
        return shorter and free(self.q_message, self.q_aggregate, self.mlp[0].q_input)

    def _narrow(self, hop: Hop, h: Tensor) -> Tensor:
        start, rest = self.mlp[0], self.mlp[1:]
        w = start.q_weight(start.weight).T
        m = product(h, w)

        def message(rows: Tensor) -> Tensor:  # a hop may have other rows, of its history
            return m if rows is h else product(rows, w)

        z = (1 + self.eps) * first(m, hop.graph.n_dst) + hop.reduce(message, h)
        return self.q_update(rest(shifted(z, start.bias)), hop)


@dataclass(eq=False, repr=False)
class GIN(Stack):
    """Graph isomorphism network (Xu et al., ICLR 2019, arXiv:1810.00826).

    Args:
        train_eps: learn eps. mlp_norm: normalisation inside the MLP. Others: ``Stack``.
    """

    norm: Norm = "batch"
    train_eps: bool = True
    mlp_norm: Literal["none", "batch", "layer"] = "batch"

    def asks(self) -> Need:
        """A."""
        return Need(self.depth)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return GINConv(d_in, d_out, self.hidden, self.mlp_norm, self.train_eps)

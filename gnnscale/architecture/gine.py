"""Graph isomorphism network with edge features."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import NORMS
from gnnscale.architecture._encoder import edge_encoder
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count


class GINEConv(nn.Module):
    """h_i' = MLP((1 + eps) h_i + sum_j relu(h_j + W e_ij)), MLP = Linear, norm, ReLU, Linear.

    Hu et al., ICLR 2020, arXiv:1905.12265, in the form of OGB's molecule models (Hu et al.,
    NeurIPS 2020, arXiv:2005.00687): the MLP is twice as wide inside, edges are encoded anew in
    every layer. Edges without features give relu(h_j).

    Args:
        d_in, d_out: feature sizes. shape: what edges carry. width: hidden size of the MLP. norm:
            its normalisation. train_eps: learn eps (starting from 0) or keep it at 0.

    Shapes: h [n_src, d_in], hop.edge [E, F_e] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, shape: Shape, width: int, norm: str, train_eps: bool):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1), requires_grad=train_eps)
        self.edge = edge_encoder(shape, d_in)
        self.mlp = nn.Sequential(
            Dense(d_in, width, rows="dst"), NORMS[norm](width), nn.ReLU(),
            Dense(width, d_out, rows="dst"),
        )  # fmt: skip
        self.q_message = Site("message", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        m = hop.sources(h)  # [E, d_in]
        m = m if self.edge is None else m + self.edge(hop.edge)
        z = self.q_aggregate(hop.collect(self.q_message(m.relu(), hop)), hop)
        return self.q_update(self.mlp((1 + self.eps) * first(h, hop.graph.n_dst) + z), hop)


@dataclass(eq=False, repr=False)
class GINE(Stack):
    """GIN whose messages see the edges.

    Args:
        train_eps: learn eps. mlp_norm: normalisation inside the MLP. expansion: its hidden size
            over the layer's width. Others: ``Stack``.
    """

    norm: Norm = "batch"
    stem: bool = True
    last_act: bool = False
    train_eps: bool = True
    mlp_norm: Literal["none", "batch", "layer"] = "batch"
    expansion: Count = 2

    gives = traits(Trait.LAYERS, Trait.SITES)

    def asks(self) -> Need:
        """A."""
        return Need(self.depth)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        width = self.expansion * self.hidden
        return GINEConv(d_in, d_out, self.shape, width, self.mlp_norm, self.train_eps)

"""OGB's graph convolution for molecules: GCN whose messages see the edges."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gnnscale.architecture._encoder import edge_encoder
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, traits


class OGBGCNConv(nn.Module):
    """h_i' = sum_j s_ij relu(z_j + W e_ij) + s_ii relu(z_i + r), z = W_0 h + b, r learned.

    s is the symmetric operator with self entries, s_ij = (d_i d_j)^-1/2 and s_ii = 1 / d_i with
    d the degree plus one. Hu et al., NeurIPS 2020, arXiv:2005.00687 (their code for ogbg-mol*).
    Edges without features give relu(z_j).

    Args:
        d_in, d_out: feature sizes. shape: what edges carry.

    Shapes: h [n_src, d_in], hop.edge [E, F_e] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, shape: Shape):
        super().__init__()
        self.linear, self.edge = Dense(d_in, d_out), edge_encoder(shape, d_out)
        self.root = nn.Parameter(torch.empty(d_out).normal_())
        self.q_message = Site("message", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        assert hop.diag is not None
        z = self.linear(h, hop)
        m = hop.sources(z)  # [E, d_out]
        m = m if self.edge is None else m + self.edge(hop.edge)
        m = self.q_message(m.relu(), hop) * hop.entries(m.dtype).unsqueeze(1)
        own = (first(z, hop.graph.n_dst) + self.root).relu() * hop.diag.unsqueeze(1)
        return self.q_update(self.q_aggregate(hop.collect(m), hop) + own, hop)


@dataclass(eq=False, repr=False)
class OGBGCN(Stack):
    """A stack of them; OGB's has batch norm, no activation behind the last block, a mean readout.

    Args: those of ``Stack``.
    """

    norm: Norm = "batch"
    stem: bool = True
    last_act: bool = False

    gives = traits(Trait.LAYERS, Trait.SITES)

    def asks(self) -> Need:
        """S = D~^-1/2 (A + I) D~^-1/2."""
        return Need(self.depth, operator="sym", loops="diag")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return OGBGCNConv(d_in, d_out, self.shape)

"""Graph isomorphism network."""

from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import NORMS, Model
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


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
        z = self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)
        return self.q_update(self.mlp((1 + self.eps) * h[: hop.graph.n_dst] + z), hop)


class GIN(Model):
    """Graph isomorphism network (Xu et al., ICLR 2019, arXiv:1810.00826).

    Args:
        shape: input and output sizes.
        train_eps: learn eps. mlp_norm: normalisation inside the MLP. Others: ``Model.stack``.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 64,
        depth: Count = 2,
        train_eps: bool = True,
        mlp_norm: Literal["none", "batch", "layer"] = "batch",
        dropout: Rate = 0.5,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "batch", "layer"] = "batch",
        residual: bool = False,
        stem: bool = False,
    ):
        super().__init__()
        self.need = Need(depth)
        self.stack(
            shape,
            lambda d_in, d_out, last: GINConv(d_in, d_out, hidden, mlp_norm, train_eps),
            hidden=hidden, depth=depth, dropout=dropout, act=act, norm=norm,
            residual=residual, stem=stem,
        )  # fmt: skip

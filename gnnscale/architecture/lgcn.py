"""The network of L2-GCN: propagation without parameters, then one linear map, layer by layer."""

from typing import Literal

from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Model
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count


class LGCNConv(nn.Module):
    """h' = act((P h + h) W), with P the hop's operator; no bias.

    You, Chen, Wang & Shen, CVPR 2020, arXiv:2003.13606, sec. 3.1. P h + h is computed without
    parameters (``propagate``), so layer-wise training does it once per layer and ``transform`` is
    all that it trains.

    Args:
        d_in, d_out: feature sizes. act: a name in ``ACTIVATIONS``.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(self, d_in: int, d_out: int, act: str):
        super().__init__()
        self.linear, self.act = Dense(d_in, d_out, bias=False, rows="dst"), ACTIVATIONS[act]()
        self.q_message, self.q_aggregate = (
            Site("message", "src", scaled=True),
            Site("aggregate", "dst"),
        )

    def propagate(self, hop: Hop, h: Tensor) -> Tensor:
        """P h + h. Shapes: [n_src, D] -> [n_dst, D]."""
        z = hop.reduce(lambda h: self.q_message(h, hop), h) + first(h, hop.graph.n_dst)
        return self.q_aggregate(z, hop)

    def transform(self, z: Tensor, hop: Hop | None = None) -> Tensor:
        """act(z W). Shapes: [n, d_in] -> [n, d_out]."""
        return self.act(self.linear(z, hop))

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One convolution over ``hop``; sparse rows are multiplied by W first, the same product."""
        if isinstance(h, SparseRows):
            weight = self.linear.q_weight(self.linear.weight).T
            return self.act(self.propagate(hop, self.linear.q_input(h, hop) @ weight))
        return self.transform(self.propagate(hop, h), hop)


class LGCN(Model):
    """``depth`` convolutions act((D~^-1 (A + I) + I) H W) and a linear classifier, no biases.

    You, Chen, Wang & Shen, CVPR 2020, arXiv:2003.13606 (L2-GCN); rows of the operator sum to 2, as
    in the authors' code. ``recipe=layerwise`` trains it as the paper does; every other recipe
    trains it end to end (the paper's "conventional training").

    Args:
        shape: input and output sizes. hidden: width. depth: convolutions. act: after each.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 16,
        depth: Count = 2,
        act: Literal["relu", "elu", "gelu"] = "relu",
    ):
        super().__init__()
        self.need = Need(depth, operator="row", loops="diag")
        widths = [shape.features, *[hidden] * (depth - 1)]
        self.layers = nn.ModuleList(LGCNConv(d_in, hidden, act) for d_in in widths)
        self.head = Dense(hidden, shape.classes, bias=False, rows="dst")

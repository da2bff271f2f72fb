"""APPNP: a perceptron's predictions, propagated by personalised PageRank."""

from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS, Dropout, Model
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.ops import full
from gnnscale.core.ops.dropout import dropout
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate, Share, Whole


class Step(nn.Module):
    """z_i' = (1 - a) sum_j s_ij z_j + a h_i, with h the first level; no parameters.

    Gasteiger, Bojchevski & Guennemann, ICLR 2019, arXiv:1810.05997, eq. 4. In training the entries
    of S, the self entries included, are dropped with rate p, anew in every step (sec. 5 and the
    authors' code): each is one number per edge.

    Args:
        alpha: a. drop: p.

    Shapes: z [n_src, C] -> [n_dst, C].
    """

    def __init__(self, alpha: float, drop: float):
        super().__init__()
        self.alpha, self.p = alpha, drop
        self.q_message, self.q_aggregate = Site("message", "src"), Site("aggregate", "dst")

    def forward(self, hop: Hop, z: Tensor, memo: Memo) -> Tensor:
        """One step over ``hop``."""
        first = memo.start(hop.graph.n_dst)
        found = self.q_aggregate(self.propagated(hop, z), hop)
        return (1 - self.alpha) * found + self.alpha * first

    def propagated(self, hop: Hop, z: Tensor) -> Tensor:
        """S z, or what dropout leaves of it."""
        if not self.training or not self.p:
            return hop.reduce(lambda z: self.q_message(z, hop), z)
        weight = dropout(hop.entries(full(z).dtype), self.p).unsqueeze(1)  # [E, 1]
        m = full(self.q_message(z, hop))
        out = hop.reduce(lambda m: m.unsqueeze(1), m, weight=weight).squeeze(1)
        if hop.diag is None:
            return out
        return out + dropout(hop.diag, self.p).unsqueeze(1) * m[: len(out)]


class APPNP(Model):
    """logits = Z_K, Z_0 = H = MLP(X), Z_(k + 1) = (1 - a) S Z_k + a H.

    Gasteiger, Bojchevski & Guennemann, ICLR 2019, arXiv:1810.05997. The perceptron is that of the
    authors' code: no biases, dropout before every map, also on sparse features.

    What is propagated has gradients, so a table of propagated features can't stand in for the hops.
    Histories (sampler=gas) are of the Z_k; H is computed anew from the batch's features.

    Args:
        shape: input and output sizes.
        hidden: width. depth: linear maps of the perceptron. steps: K. alpha: a, the probability of
            return. dropout: rate before each map. edge_dropout: rate on S. act, norm: of hidden
            layers. bias: of the maps.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)
    apart: ClassVar[bool] = False

    @classmethod
    def declare(cls, **parameters: object):
        """A drawn operator has entries of its own, so estimators of S can't serve it."""
        drawn = parameters.get("edge_dropout", 0.5)
        return (cls.gives - {Trait.LINEAR} if drawn else cls.gives), cls.needs

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 64,
        depth: Count = 2,
        steps: Whole = 10,
        alpha: Share = 0.1,
        dropout: Rate = 0.5,
        edge_dropout: Rate = 0.5,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "batch", "layer"] = "none",
        bias: bool = False,
    ):
        super().__init__()
        self.need = Need(steps, operator="sym", loops="diag", stem=True)
        widths = [shape.features, *[hidden] * (depth - 1), shape.classes]
        self.maps = nn.ModuleList()
        for i, (d_in, d_out) in enumerate(pairwise(widths)):
            before = (NORMS[norm](d_in), ACTIVATIONS[act]()) if i else ()
            self.maps.append(nn.Sequential(*before, Dropout(dropout), Dense(d_in, d_out, bias)))
        self.layers = nn.ModuleList(Step(alpha, edge_dropout) for _ in range(steps))

    def encode(self, x: Tensor | SparseRows) -> tuple[Tensor, ...]:
        """The perceptron, row by row; the last level is H."""
        levels = []
        for part in self.maps:
            x = part(x)
            levels.append(x)
        return tuple(levels)

    def first(self) -> list[nn.Parameter]:
        """The first linear map, on which alone the paper puts weight decay."""
        return list(self.maps[0].parameters())

    def last(self) -> list[nn.Parameter]:
        """The last linear map."""
        return list(self.maps[-1][-1].parameters())

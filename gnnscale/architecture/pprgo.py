"""PPRGo: a perceptron per node and one sum by PageRank."""

from itertools import pairwise

from torch import Tensor, nn

from gnnscale.architecture._base import Dropout, Model
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class PageRankSum(nn.Module):
    """z_s = sum_t pi_st h_t, pi being the hop's weights; no parameters.

    Shapes: h [n_src, C] -> [n_dst, C].
    """

    def __init__(self) -> None:
        super().__init__()
        self.q_message, self.q_aggregate = Site("message", "src"), Site("aggregate", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """The weighted sum over ``hop``."""
        return self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)


class PPRGo(Model):
    """logits_s = sum_t pi_st MLP(x_t).

    Bojchevski et al., KDD 2020, arXiv:2007.01570, eq. 5. The perceptron is that of the authors'
    code: no biases, ReLU, dropout before every map, also on sparse features.

    Args:
        shape: input and output sizes.
        hidden: width. depth: linear maps of the perceptron. dropout: rate before each.
    """

    gives = traits(Trait.SITES)
    needs = (traits(Trait.PPR),)

    def __init__(
        self, shape: Shape, hidden: Count = 32, depth: Count = 2, dropout: Rate = 0.1
    ):  # fmt: skip
        super().__init__()
        self.need = Need(1)
        widths = [shape.features, *[hidden] * (depth - 1), shape.classes]
        self.maps = nn.ModuleList(
            nn.Sequential(
                nn.ReLU() if i else nn.Identity(), Dropout(dropout), Dense(d_in, d_out, bias=False)
            )
            for i, (d_in, d_out) in enumerate(pairwise(widths))
        )
        self.layers = nn.ModuleList([PageRankSum()])

    def encode(self, x: Tensor | SparseRows) -> tuple[Tensor, ...]:
        """The perceptron, row by row; the last level is h."""
        levels = []
        for part in self.maps:
            x = part(x)
            levels.append(x)
        return tuple(levels)

    def first(self) -> list[nn.Parameter]:
        """The first linear map."""
        return list(self.maps[0].parameters())

"""A message-passing network with messages of both ends of an edge."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gnnscale.architecture._base import divisible
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.architecture._towers import Message, Towers, share
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.values import Count, Rate

Aggr = Literal["sum", "mean", "max"]


class MPNNConv(nn.Module):
    """h_i' = W (concat_t U_t [z_it || h_it]) + b, z_it = aggr_j M_t [h_it || h_jt || e_ij].

    The baseline of EGC (Tailor et al., ICLR 2022, arXiv:2104.01481, sec. 4), a form of Gilmer et
    al., ICML 2017, arXiv:1704.01212: M and U are linear, one per tower. ``sum`` and ``mean`` are
    the hop's operator (A, D^-1 A), so samplers may rescale them. Theirs makes a message per edge;
    here memory does not grow with the edges (``Message``), which changes nothing but rounding.

    Args:
        d_in, d_out: sizes. aggr: sum, mean or max. towers: of equal width. divide: each reads its
            share of h; else all of it. shape: what edges carry; None: they are not read.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(
        self, d_in: int, d_out: int, aggr: Aggr, towers: int = 4, divide: bool = True,
        shape: Shape | None = None,
    ):  # fmt: skip
        super().__init__()
        width, size = share(d_in, towers, divide), d_out // towers
        self.aggr, self.towers = aggr, towers
        self.message = Message(towers, width, size, not divide, shape)
        self.update = Towers(towers, size, size, False, True, width + size)
        self.own = Towers(towers, width, size, not divide, False, width + size)
        self.mix = Dense(d_out, d_out, rows="dst")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        # an operator takes the sum over sources to a mean, but not over edges
        over_edges = self.aggr == "max" or self.message.edge is not None
        (z,) = self.message(hop, h, (self.aggr if over_edges else "sum",))
        y = self.update(self.q_aggregate(z, hop), hop) + self.own(first(h, hop.graph.n_dst), hop)
        return self.q_update(self.mix(y, hop), hop)


@dataclass(eq=False, repr=False)
class MPNN(Stack):
    """A stack of them.

    Args:
        aggr: sum, mean or max. towers: must divide hidden; 1 in the last layer without a stem.
        divide: towers share the input out. edges: messages read edge features where batches carry
            them, at the cost of a value per edge and column. Others: ``Stack``.

    Raises: UsageError for sizes that towers do not divide.
    """

    depth: Count = 4
    dropout: Rate = 0.0
    norm: Norm = "batch"
    residual: bool = True
    stem: bool = True
    aggr: Aggr = "sum"
    towers: Count = 4
    divide: bool = True
    edges: bool = False

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """But for the maximum."""
        return parameters.get("aggr", cls.aggr) != "max"

    def asks(self) -> Need:
        """A, or D^-1 A for the mean."""
        divisible("architecture.hidden", self.hidden, "architecture.towers", self.towers)
        return Need(self.depth, "row" if self.aggr == "mean" else "none")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return MPNNConv(
            d_in, d_out, self.aggr, 1 if last else self.towers, self.divide,
            self.shape if self.edges else None,
        )  # fmt: skip

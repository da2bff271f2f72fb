"""Generalised aggregation networks: the convolution of DeeperGCN and RevGNN."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import NORMS
from gnnscale.architecture._encoder import edge_encoder
from gnnscale.architecture._stack import Norm, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops import full
from gnnscale.core.site import Dense, Site
from gnnscale.core.values import Count, Positive, Rate

Aggregator = Literal["max", "softmax", "power", "mean", "add"]

LEAST = 1e-7
"""Added to every message, so that its logarithm and its powers exist."""


class GENConv(nn.Module):
    """h_i' = MLP(h_i + aggr_j m_ij), m_ij = ReLU(h_j [+ edge(e_ij)]) + 1e-7.

    MLP = Linear(d, 2 d), norm, ReLU, Linear(2 d, d'). Li, Xiong, Thabet & Ghanem, "DeeperGCN",
    arXiv:2006.07739; ``max`` in RevGNN (Li et al., ICML 2021). Aggregators, per
    column: ``max``; ``softmax``, sum_j softmax_j(t m_ij) m_ij; ``power``,
    (mean_j m_ij^p)^(1/p); ``mean``; ``add``. All of them are 0 without neighbours.

    Departs from it: messages are not clamped to [1e-7, 10] before they are raised to p, but divided
    by the largest of the batch in their column, which changes nothing but that it can't overflow.

    ``mean`` is the row operator and ``add`` the plain one (see ``asks``), so samplers may rescale
    them; with edge features they are those of the edges that are there.

    Cost: without edge features messages are made once per node, and only ``softmax`` keeps [E, d].

    Args:
        d_in, d_out: feature sizes. aggr: aggregator. scale: t of softmax or p of power. learn:
            learn it, starting there. norm: inside the MLP. edge: maps edge features to d_in
            columns; None: there are none.

    Shapes: h [n_src, d_in], hop.edge [E, F_e] -> [n_dst, d_out].
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        aggr: str = "max",
        scale: float = 1.0,
        learn: bool = False,
        norm: str = "layer",
        edge: nn.Module | None = None,
    ):
        super().__init__()
        self.aggr = aggr
        learned = learn and aggr in ("softmax", "power")
        self.scale = nn.Parameter(torch.tensor(float(scale))) if learned else scale
        self.edge = edge
        self.mlp = nn.Sequential(
            Dense(d_in, 2 * d_in, rows="dst"), NORMS[norm](2 * d_in), nn.ReLU(),
            Dense(2 * d_in, d_out, rows="dst"),
        )  # fmt: skip
        self.q_message = Site("message", "src" if self.edge is None else "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        z = self.of_nodes(hop, h) if self.edge is None else self.of_edges(hop, h)
        z = self.q_aggregate(z, hop)
        return self.q_update(self.mlp(first(h, hop.graph.n_dst) + z), hop)

    def of_nodes(self, hop: Hop, h: Tensor) -> Tensor:
        """Aggregated messages that depend on the source only. [n_src, D] -> [n_dst, D]."""

        def message(h: Tensor) -> Tensor:
            return full(self.q_message(h.relu() + LEAST, hop))

        if self.aggr == "softmax":
            m = message(h)
            a = hop.softmax(hop.sources(self.scale * m))  # [E, D]
            return hop.reduce(lambda m: m, m.unsqueeze(2), weight=a).squeeze(2)
        if self.aggr == "power":
            m = message(h)
            top = largest(m)
            return top * self.root(hop.reduce(lambda m: m**self.scale, m / top, "mean"))
        return hop.reduce(message, h, "max" if self.aggr == "max" else "sum")

    def of_edges(self, hop: Hop, h: Tensor) -> Tensor:
        """Aggregated messages of a source and an edge. [n_src, D], [E, F_e] -> [n_dst, D]."""
        assert self.edge is not None
        m = hop.sources(h) + self.edge(hop.edge)
        m = full(self.q_message(m.relu() + LEAST, hop))  # [E, D]
        if self.aggr == "softmax":
            return hop.collect(m * hop.softmax(self.scale * m))
        if self.aggr == "power":
            top = largest(m)
            return top * self.root(hop.collect((m / top) ** self.scale, "mean"))
        return hop.collect(m, self.aggr)

    def root(self, z: Tensor) -> Tensor:
        """z^(1/p); 0 with gradient 0 where z is: without neighbours, or where powers underflow."""
        some = z > 0
        return torch.where(some, torch.where(some, z, 1.0) ** (1 / self.scale), 0.0)


def largest(m: Tensor) -> Tensor:
    """The maximum of each column as a constant, so that no power of the rest overflows. [1, D]."""
    return m.detach().amax(0, keepdim=True) if len(m) else m.new_ones(1, m.shape[1])


def asks(aggr: str, depth: int) -> Need:
    """What hops an aggregator reads."""
    return Need(depth, operator="row" if aggr == "mean" else "none")


@dataclass(eq=False, repr=False)
class GEN(Stack):
    """A stack of generalised aggregation (Li, Xiong, Thabet & Ghanem, arXiv:2006.07739).

    ``order=pre`` is the order of the paper's network, DeeperGCN ("res+").

    Args:
        aggr, scale, learn: see ``GENConv``. mlp_norm: norm inside the MLPs. Others: ``Stack``.
    """

    depth: Count = 3
    dropout: Rate = 0.1
    norm: Norm = "layer"
    residual: bool = True
    stem: bool = True
    aggr: Aggregator = "softmax"
    scale: Positive = 1.0
    learn: bool = False
    mlp_norm: Literal["none", "batch", "layer"] = "layer"

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """For sums and means."""
        return parameters.get("aggr", cls.aggr) in ("mean", "add")

    def asks(self) -> Need:
        """D^-1 A for mean, else A."""
        return asks(self.aggr, self.depth)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return GENConv(
            d_in, d_out, self.aggr, self.scale, self.learn, self.mlp_norm,
            edge_encoder(self.shape, d_in),
        )  # fmt: skip

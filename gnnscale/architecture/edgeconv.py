"""EdgeConv, the layer of dynamic graph CNNs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, NORMS
from gnnscale.architecture._stack import Act, Stack
from gnnscale.core.batch import Memo
from gnnscale.core.batch_norm import RowNorm
from gnnscale.core.hop import Hop, Need
from gnnscale.core.site import Dense, Site
from gnnscale.core.traits import Trait, Traits, traits
from gnnscale.core.values import Count
from gnnscale.graph.nearest import Space, nearest

NORMS_OF_EDGES = {**NORMS, "batch": RowNorm}


class EdgeConv(nn.Module):
    """h_i' = max_j MLP([h_i || h_j - h_i]), 0 without neighbours.

    Wang, Sun, Liu, Sarma, Bronstein & Solomon, ACM TOG 2019, arXiv:1801.07829, eq. 3 and 8. The MLP
    is ``depth`` linear maps, each with a norm, and activations between them; the last activation
    stands behind the maximum, which it commutes with. With a quantizer, its inputs are the edges'
    (RF, the real-valued graph features of Bahri et al., CVPR 2021).

    Memory: the MLP's values are of edges, [E, d_out].

    Args:
        d_in, d_out: feature sizes. depth: linear maps. norm: behind each of them, none behind the
            one that gives the ``last`` layer's logits. act: between them. k, space: neighbours
            found anew among the rows of each graph, see ``nearest``; None: the hop's edges.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(
        self, d_in: int, d_out: int, depth: int, norm: str, act: str, last: bool = False,
        k: int | None = None, space: Space = "euclid",
    ):  # fmt: skip
        super().__init__()
        self.k, self.space = k, space
        steps: list[nn.Module] = []
        for i in range(depth):
            closes = i == depth - 1
            steps += [Dense(d_out if i else 2 * d_in, d_out, rows="edges"),
                      NORMS_OF_EDGES["none" if closes and last else norm](d_out)]  # fmt: skip
            steps += [] if closes else [ACTIVATIONS[act]()]
        self.mlp = nn.Sequential(*steps)
        self.q_message = Site("message", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``, or over the nearest neighbours of its rows."""
        if self.k is not None:
            hop = Hop(nearest(h.detach(), self.k, hop.segment, self.space), segment=hop.segment)
        n = hop.graph.n_dst
        e = hop.edges(lambda h_j, h_i: torch.cat([h_i, h_j - h_i], 1), h, h[:n])  # [E, 2 d_in]
        z = hop.collect(self.q_message(self.mlp(e), hop), "max")
        return self.q_update(self.q_aggregate(z, hop), hop)


@dataclass(eq=False, repr=False)
class DGCNN(Stack):
    """A stack of them, on the given graph or on graphs that every layer makes of its own rows.

    Departs from the paper's classifier of point clouds: pooling, jump and the head are those of
    ``Stack`` (architecture.jump=concat and architecture.head_widths make them alike).

    Args:
        mlp_depth: linear maps in each MLP. mlp_norm: behind each, over edges. dynamic: every layer
            reads the k nearest neighbours among the present rows of each graph, itself among them,
            in place of the edges given; for tasks whose labels are of graphs. k: see there. space:
            euclid, or hamming: nearest in the signs of the rows. Others: ``Stack``.
    """

    depth: Count = 3
    act: Act = "leaky_relu"
    stem: bool = True
    mlp_depth: Count = 1
    mlp_norm: Literal["none", "batch", "layer"] = "batch"
    dynamic: bool = False
    k: Count = 20
    space: Space = "euclid"

    gives = traits(Trait.LAYERS, Trait.SITES)

    @classmethod
    def declare(cls, **parameters: object) -> tuple[Traits, tuple[Traits, ...]]:
        """Neighbours are looked for among all rows of a graph, which must be there."""
        gives, needs = super().declare(**parameters)
        if parameters.get("dynamic"):
            needs = tuple(n | {Trait.SQUARE, Trait.GRAPH} for n in needs)
            gives = gives - {Trait.LAYERS}
        return gives, needs

    def asks(self) -> Need:
        """A."""
        return Need(self.depth)

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return EdgeConv(
            d_in, d_out, self.mlp_depth, self.mlp_norm, self.act, last,
            self.k if self.dynamic else None, self.space,
        )  # fmt: skip

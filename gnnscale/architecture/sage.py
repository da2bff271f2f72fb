"""GraphSAGE."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._stack import Stack
from gnnscale.core.batch import Memo
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops.product import product, shifted, summed
from gnnscale.core.site import Dense, Site, free
from gnnscale.core.sparse import SparseRows


class SAGEConv(nn.Module):
    """h_i' = W_self h_i + W_neigh aggr_j h_j + b.

    Hamilton, Ying & Leskovec, NeurIPS 2017, arXiv:1706.02216, alg. 1 with the sum of two maps in
    place of one map of the concatenation (the same function). ``mean`` is the row operator, so
    samplers may rescale it; ``max`` is the plain maximum of relu(W_pool h_j + b_pool) (eq. 3);
    ``gcn`` is the mean over N(i) and i with one map (sec. 3.3, inductive GCN).

    Args:
        d_in, d_out: feature sizes. aggr: mean, max or gcn.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    takes_sparse = True

    def __init__(self, d_in: int, d_out: int, aggr: str):
        super().__init__()
        self.aggr, self.narrows = aggr, d_in > d_out
        self.neighbor = Dense(d_in, d_out, bias=True)
        self.self = Dense(d_in, d_out, bias=False, rows="dst") if aggr != "gcn" else None
        self.pool = Dense(d_in, d_in) if aggr == "max" else None
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        if self._shares_product(hop, h):
            return self._both_at_once(hop, h)
        own = first(h, hop.graph.n_dst)
        if self.pool is None and (self.narrows or isinstance(h, SparseRows)):
            w = self.neighbor.q_weight(self.neighbor.weight).T  # aggregate the narrower side
            z = hop.reduce(
                lambda h: self.q_message(product(self.neighbor.q_input(h, hop), w), hop), h
            )
            z = shifted(self.q_aggregate(z, hop), self.neighbor.bias)
            z = z if self.self is None else product(*self._own(own, hop), z, over=True)
        elif self.pool is not None:
            pool = self.pool
            z = hop.reduce(lambda h: self.q_message(pool(h, hop).relu(), hop), h, "max")
            z = self._maps(self.q_aggregate(z, hop), own, hop)
        else:
            z = hop.reduce(lambda h: self.q_message(h, hop), h)
            z = self._maps(self.q_aggregate(z, hop), own, hop)
        return self.q_update(z, hop)

    def _own(self, own: Tensor, hop: Hop) -> tuple[Tensor, Tensor]:
        """A node's own row, and what multiplies it."""
        assert self.self is not None
        return self.self.q_input(own, hop), self.self.q_weight(self.self.weight).T

    def _maps(self, z: Tensor, own: Tensor, hop: Hop) -> Tensor:
        """W_neigh z + W_self h + b."""
        side = self.neighbor
        if self.self is None:
            return side(z, hop)
        rows = side.q_input(z, hop), side.q_weight(side.weight).T
        return summed(*rows, *self._own(own, hop), side.bias)

    def _shares_product(self, hop: Hop, h: Tensor) -> bool:
        """Whether both maps read the same rows and the neighbours' is taken before the mean."""
        if self.self is None or self.pool is not None or len(h) != hop.graph.n_dst:
            return False
        ahead = self.narrows or isinstance(h, SparseRows)
        return ahead and free(self.neighbor.q_input, self.self.q_input)

    def _both_at_once(self, hop: Hop, h: Tensor) -> Tensor:
        """One product by both weights: rows are read once, their gradients are not added up."""
        assert self.self is not None
        weights = [side.q_weight(side.weight) for side in (self.neighbor, self.self)]
        m, own = product(h, torch.cat(weights).T).chunk(2, 1)

        def message(rows: Tensor) -> Tensor:  # a hop may have other rows, of its history
            z = m.contiguous() if rows is h else product(rows, weights[0].T)
            return self.q_message(z, hop)

        z = hop.reduce(message, h)
        return self.q_update(shifted(self.q_aggregate(z, hop) + own, self.neighbor.bias), hop)


@dataclass(eq=False, repr=False)
class SAGE(Stack):
    """GraphSAGE (Hamilton, Ying & Leskovec, NeurIPS 2017, arXiv:1706.02216).

    Departs from alg. 1: embeddings are not L2-normalised (nor are they in OGB's and DGL's models).

    Args:
        aggr: mean (linear), max (pooling) or gcn. Others: ``Stack``.
    """

    aggr: Literal["mean", "max", "gcn"] = "mean"

    @classmethod
    def linear(cls, **parameters: object) -> bool:
        """But for the maximum."""
        return parameters.get("aggr", cls.aggr) != "max"

    def asks(self) -> Need:
        """D^-1 A, with self entries for gcn; A for max."""
        operator: Literal["row", "none"] = "none" if self.aggr == "max" else "row"
        return Need(self.depth, operator, "diag" if self.aggr == "gcn" else "none")

    def conv(self, d_in: int, d_out: int, last: bool) -> nn.Module:
        """One layer's."""
        return SAGEConv(d_in, d_out, self.aggr)

"""Cluster-GCN's network: a node beside its neighbourhood, one map of both.

Chiang et al., KDD 2019, arXiv:1905.07953, and the authors' code.

Departs from them: the operator arrives on the hop, so that any sampler may give it; the diagonal
enhancement is the sampler's, sampler.diagonal.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Block, Dropout, Model
from gnnscale.architecture._normed import EPS
from gnnscale.core.batch import Memo
from gnnscale.core.data import Shape
from gnnscale.core.errors import UsageError
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class ClusterConv(nn.Module):
    """h_i' = W^T dropout([sum_j s_ij h_j || h_i]), with s the operator of the hop; no bias.

    Args:
        d_in, d_out: feature sizes. drop: rate.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, drop: float):
        super().__init__()
        self.map, self.drop_in = glorot_map(2 * d_in, d_out), drop
        self.q_message = Site("message", "src", scaled=True)
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        z = self.q_aggregate(hop.reduce(lambda h: self.q_message(h, hop), h), hop)
        both = torch.cat([z, first(h, hop.graph.n_dst)], 1)
        if self.training:
            both = hop.drop(both, self.drop_in, inside=True)
        return self.q_update(self.map(both, hop), hop)


class First(nn.Module):
    """The first layer on features that are [A X || X] already: act(norm(W^T dropout(x))).

    Args:
        d_in: width of x. d_out: width. drop: rate. act, norm: as in ``ClusterGCN``.

    Shapes: x [n, d_in], dense or sparse rows -> [n, d_out].
    """

    def __init__(self, d_in: int, d_out: int, drop: float, act: str, norm: str):
        super().__init__()
        self.drop, self.map = Dropout(drop), glorot_map(d_in, d_out, "src")
        self.norm, self.act = normalisation(norm, d_out), ACTIVATIONS[act]()

    def forward(self, x: Tensor | SparseRows) -> Tensor:
        """The whole layer."""
        return self.act(self.norm(self.map(self.drop(x))))


def glorot_map(d_in: int, d_out: int, rows: Literal["src", "dst"] = "dst") -> Dense:
    """A linear map without a bias, Glorot-uniform."""
    made = Dense(d_in, d_out, bias=False, rows=rows)
    nn.init.xavier_uniform_(made.weight)
    return made


def normalisation(name: str, width: int) -> nn.Module:
    """The authors' per-node norm, whose eps is 1e-9, or none."""
    return nn.LayerNorm(width, EPS) if name == "layer" else nn.Identity()


class ClusterGCN(Model):
    """H' = act(norm(dropout([S H || H]) W)); the last layer has neither norm nor activation.

    Chiang et al., KDD 2019, arXiv:1905.07953; S = (D + I)^-1 (A + I). Where the sampler gives
    [A X || X] as features (sampler.precalc=true), the first layer has no hop and propagates
    nothing more, as in the authors' code; ``depth`` counts it.

    Args:
        shape: input and output sizes.
        hidden: width. depth: layers. self_loops: S as above, or D^-1 A. dropout: on [S H || H].
        act, norm: of all layers but the last.

    Raises: UsageError for depth=1 where the sampler gives [A X || X]: no hop would be left.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 512,
        depth: Count = 4,
        self_loops: bool = True,
        dropout: Rate = 0.2,
        act: Literal["relu", "elu", "gelu"] = "relu",
        norm: Literal["none", "layer"] = "layer",
    ):
        super().__init__()
        if shape.aggregated and depth == 1:
            raise UsageError(
                "architecture.depth=1: with sampler.precalc=true the first layer has no hop, so "
                "none is left; type architecture.depth=2 or more, or sampler.precalc=false"
            )
        ahead = int(shape.aggregated)
        self.need = Need(
            depth - ahead, operator="row", loops="diag" if self_loops else "none",
            stem=shape.aggregated,
        )  # fmt: skip
        widths = [shape.features, *[hidden] * (depth - 1), shape.classes]
        if ahead:
            self.encoder = First(shape.features, hidden, dropout, act, norm)
        for d_in, d_out in pairwise(widths[ahead:]):
            last = len(self.layers) + ahead == depth - 1
            block = Block(ClusterConv(d_in, d_out, dropout), d_out, act="none" if last else act)
            block.norm = normalisation("none" if last else norm, d_out)
            self.layers.append(block)

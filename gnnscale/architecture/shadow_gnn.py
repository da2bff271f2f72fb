"""shaDow-GNN's network: deep layers inside one subgraph per root, read out over all of them.

Zeng et al., NeurIPS 2021, arXiv:2201.07858, and the authors' code.

Departs from them:
- Weights start Glorot-uniform (theirs: torch's default); every act is followed by a norm.
- A PReLU has a slope of its own in each part of a SAGE layer (theirs: one per layer).
- No sort pooling, and no features or labels smoothed beforehand.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.architecture._base import ACTIVATIONS, Model, divisible, glorot
from gnnscale.architecture._normed import EPS, Level, Normed, OrderConv, Unit
from gnnscale.architecture._subgraph import Coded, Ensemble, Readout
from gnnscale.core.batch import Batch, Memo
from gnnscale.core.data import Shape
from gnnscale.core.hop import Hop, Need, first
from gnnscale.core.ops import full
from gnnscale.core.ops.product import product, shifted
from gnnscale.core.site import Dense, Site
from gnnscale.core.sparse import SparseRows
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import Count, Rate


class GCNLayer(nn.Module):
    """h_i' = norm(act(W^T sum_j s_ij h_j + b)), s symmetric with self entries, from the hop.

    Args:
        d_in, d_out: sizes. act, norm: as in ``Normed``.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, act: str, norm: str):
        super().__init__()
        self.first = d_in > d_out  # the product on the narrower side
        self.part = Normed(d_in, d_out, act, norm, "src" if self.first else "dst")
        self.q_message = Site("message", "src")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One convolution over ``hop``."""
        last = self.part.map
        if self.first or isinstance(h, SparseRows):
            w = last.q_weight(last.weight).T
            z = hop.reduce(lambda h: self.q_message(product(last.q_input(h, hop), w), hop), h)
            z = shifted(self.q_aggregate(z, hop), last.bias)
        else:
            z = hop.reduce(lambda h: self.q_message(h, hop), h)
            z = last(self.q_aggregate(z, hop), hop)
        return self.q_update(self.part.finish(z), hop)


class GATLayer(nn.Module):
    """h_i' = (norm(z_i) + norm(sum_j a_ij y_j)) / 2, z = act(W_0 h + b_0), y = act(W_1 h + b_1).

    Per head: a_ij = softmax_j(LeakyReLU_0.2(l . z_i) + LeakyReLU_0.2(r . y_j)) over the
    neighbours and i itself; heads side by side, each normalised on its own. l . z_i is the same for
    all j and cancels, so l changes nothing; it is here as it is in the published count.

    Args:
        d_in, d_out: sizes; heads divides d_out. heads: of attention. act, norm: as in ``Normed``.

    Shapes: h [n_src, d_in] -> [n_dst, d_out].
    """

    def __init__(self, d_in: int, d_out: int, heads: int, act: str, norm: str):
        super().__init__()
        self.heads, size = heads, d_out // heads
        self.own, self.far = Dense(d_in, d_out, rows="dst"), Dense(d_in, d_out)
        for part in (self.own, self.far):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        self.left, self.right = glorot(heads, size), glorot(heads, size)
        self.act, self.norm = ACTIVATIONS[act](), norm
        if norm == "layer":
            self.scale = nn.Parameter(torch.ones(2, heads, size))
            self.offset = nn.Parameter(torch.zeros(2, heads, size))
        self.q_left, self.q_right = Site("weight", of="left"), Site("weight", of="right")
        self.q_message, self.q_attention = Site("message", "src"), Site("attention", "edges")
        self.q_aggregate, self.q_update = Site("aggregate", "dst"), Site("update", "dst")

    def forward(self, hop: Hop, h: Tensor | SparseRows, memo: Memo) -> Tensor:
        """One convolution over ``hop``, whose edges include a loop per node."""
        n = hop.graph.n_dst
        z = self.act(self.own(first(h, n), hop)).view(n, self.heads, -1)  # [n_dst, heads, D]
        y = self.q_message(self.act(self.far(h, hop)), hop).view(len(h), self.heads, -1)
        left = F.leaky_relu((z * self.q_left(self.left)).sum(-1), 0.2)  # [n_dst, heads]
        right = F.leaky_relu((y * self.q_right(self.right)).sum(-1), 0.2)  # [n_src, heads]
        e = self.q_attention(hop.edges(torch.add, right, left), hop)  # [E, heads]
        y = hop.reduce(lambda y: y, y, weight=hop.softmax(e))  # [n_dst, heads, D]
        y = self.q_aggregate(y.flatten(1), hop).view_as(z)
        both = torch.stack([full(z), y], 1)  # [n_dst, 2, heads, D]
        if self.norm == "layer":
            both = F.layer_norm(both, both.shape[-1:], eps=EPS) * self.scale + self.offset
        return self.q_update(both.mean(1).flatten(1), hop)


class ShadowGNN(Model):
    """shaDow-GNN (Zeng et al., NeurIPS 2021, arXiv:2201.07858).

    Every layer: dropout, transform, activation, norm (of each row, or of each head). SAGE:
    norm(act(W_s h_i + b_s)) + norm(act(W_n mean_j h_j + b_n)). Then the readout that the sampler
    asks for, scaled to length 1, and a linear classifier whose logits are normalised, too.

    Where batches hold further views of the same roots (sampler=shadow_ensemble), each has a branch
    of its own, alike but for its weights; an ``Ensemble`` of what they read out is classified.

    Args:
        shape: input and output sizes. hidden: width. depth: layers. layer: gcn, sage or gat. heads:
            of gat. residue: read out the outputs of all layers, by max, sum or concat, or the last
            one's (none). dropout: before every layer and in the readout. act, norm: of every part.

    Raises: UsageError if heads does not divide hidden in gat.
    """

    gives = traits(Trait.LAYERS, Trait.LINEAR, Trait.SITES)
    needs = (traits(Trait.HOPS),)

    @classmethod
    def declare(cls, **parameters: object):
        """Attention is not ``linear``; a residue over layers can't be read one layer at a time."""
        linear = parameters.get("layer", "sage") != "gat"
        apart = parameters.get("residue", "none") == "none"
        lacks = {t for t, keep in ((Trait.LINEAR, linear), (Trait.LAYERS, apart)) if not keep}
        return cls.gives - lacks, cls.needs

    def __init__(
        self,
        shape: Shape,
        hidden: Count = 256,
        depth: Count = 3,
        layer: Literal["gcn", "sage", "gat"] = "sage",
        heads: Count = 4,
        residue: Literal["none", "max", "sum", "concat"] = "none",
        dropout: Rate = 0.2,
        act: Literal["relu", "elu", "gelu", "prelu"] = "relu",
        norm: Literal["none", "layer"] = "layer",
    ):
        super().__init__()
        stem = shape.codes > 0
        if layer == "gcn":
            self.need = Need(depth, "sym", "diag", stem)
        elif layer == "sage":
            self.need = Need(depth, "row", "none", stem)
        else:
            divisible("architecture.hidden", hidden, "architecture.heads", heads)
            self.need = Need(depth, "none", "edges", stem)
        if stem:
            self.encoder = Coded(shape.features, shape.codes)
        d = shape.features - shape.codes
        for i in range(depth):
            conv: nn.Module
            if layer == "gcn":
                conv = GCNLayer(d, hidden, act, norm)
            elif layer == "sage":
                conv = OrderConv(d, hidden, 1, "sum", act, norm, 0)
            else:
                conv = GATLayer(d, hidden, heads, act, norm)
            last = nn.Identity() if i + 1 == depth else None
            jump = (i, last) if residue != "none" else None
            self.layers.append(Level(conv, (), dropout, 0.0, jump))
            d = hidden
        if residue != "none" or shape.readout != "center":
            levels = 1 if residue == "none" else depth
            self.pool = Readout(shape.readout, residue, levels, hidden, dropout, act, norm)
        alone = replace(shape, views=0)
        self.branches = nn.ModuleList(
            ShadowGNN(alone, hidden, depth, layer, heads, residue, dropout, act, norm)
            for _ in range(shape.views)
        )
        for branch in self.branches:
            branch.head = nn.Identity()
        self.ensemble = Ensemble(hidden) if shape.views else None
        self.head = Unit(hidden, shape.classes, 0.0, norm, scale=not shape.views)

    def readout(self, h: Tensor, batch: Batch) -> Tensor:
        """What the classifier reads: that of the one view, or the ensemble of all."""
        own = super().readout(h, batch)
        if self.ensemble is None:
            return own
        pairs = zip(self.branches, batch.views, strict=True)
        found = [own, *(branch(view).logits for branch, view in pairs)]
        return self.ensemble([F.normalize(full(z)) for z in found])

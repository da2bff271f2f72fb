"""GNN self-distillation: a layer keeps the neighbourhood discrepancy of the layer below.

Chen, Bian, Xiao, Rong, Xu & Huang, IJCAI 2021 (GNN-SD). There is no teacher and no released code.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Hop
from gnnscale.core.ops import full
from gnnscale.core.teacher import Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import NonNegative, Whole
from gnnscale.distillation._base import Term


def discrepancy(hop: Hop, h: Tensor, loops: bool) -> Tensor:
    """S_v = 1 - cos((A h)_v, h_v), A the plain adjacency without self-loops; in [0, 2].

    0 for a node without neighbours, or where one of the two rows is 0 and the cosine has no value.

    Args:
        hop: a square step. h: [n, D]. loops: whether the graph of the hop has a loop per node.

    Shapes: -> [n].
    """
    near = hop.reduce(full, h, "add")
    near = near - h if loops else near
    known = (near.detach().square().sum(1) > 0) & (h.detach().square().sum(1) > 0)
    return torch.where(known, 1 - F.cosine_similarity(near, h), 0)


class GNNSD(Term):
    """weight * sum over the layers l from l* to L - 1 with ||S^l|| > ||S^(l+1)|| of
    (1/n) ||S^(l+1) - sg(S^l)||_2^2, S^l the discrepancies of layer l's output, l* the layer below L
    with the largest ||S^l||, sg without gradient.

    Layers are those that pass messages; where the last is the classifier itself, its logits are the
    output of layer L. A layer that lost discrepancy is pulled to what the one below it had.

    The equations were taken from secondary sources: that the distance is averaged over nodes, and
    the weight, are ours. The paper's further term for graph-level tasks is not built.

    Args:
        weight: alpha. start: l*, counted from 1; 0: by the rule above, anew in every step.
    """

    needs = (traits(Trait.HOPS, Trait.SQUARE),)
    nodes = "observed"
    levels = True

    def __init__(self, weight: NonNegative = 0.1, start: Whole = 0):
        super().__init__()
        self.weight, self.start = weight, start

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """See what the model's hops are like, and whether its last layer is the classifier."""
        part: Any = model
        self.loops = part.need.loops == "edges"
        self.classifies = isinstance(part.head, nn.Identity)

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """The term of a batch, a scalar; 0 for a model of one layer."""
        count = len(batch.hops)
        levels = out.levels[len(out.levels) - count + self.classifies :]
        found = [discrepancy(batch.hops[0], full(h), self.loops) for h in levels]
        if self.classifies and len(out.logits) == len(batch.nodes):
            order = torch.empty_like(batch.rows).scatter_(
                0, batch.rows, torch.arange(len(batch.rows), device=batch.rows.device)
            )
            found.append(discrepancy(batch.hops[0], out.logits[order], self.loops))
        return out.logits.sum() * 0 + self.weight * retention(found, self.start)


def retention(found: Sequence[Tensor], start: int = 0) -> Tensor | float:
    """The sum of the class's docstring over the discrepancies of layers 1 to L, [n] each."""
    norms = [s.detach().norm() for s in found]
    if len(found) < 2:
        return 0.0
    first = start - 1 if start else int(torch.stack(norms[:-1]).argmax())
    pairs = [k for k in range(first, len(found) - 1) if norms[k] > norms[k + 1]]
    return sum(((found[k + 1] - found[k].detach()).square().mean() for k in pairs), 0.0)

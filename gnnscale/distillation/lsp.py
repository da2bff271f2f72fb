"""Local structure preservation: each node's similarities to its neighbours agree.

Yang, Qiu, Song, Tao & Wang, CVPR 2020, and the released code; kernels of Joshi et al.,
arXiv:2111.04964.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.batch import Batch, Output
from gnnscale.core.data import GraphData
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.teacher import Rows, Teacher
from gnnscale.core.traits import Trait, traits
from gnnscale.core.values import NonNegative, Whole
from gnnscale.distillation._base import Nodes
from gnnscale.distillation._features import Features
from gnnscale.distillation._kernels import KERNELS, Similarity
from gnnscale.graph.induce import induce


class LSP(Features):
    """weight * (1/n) sum_i KL(softmax_{j in N(i)} k(t_i, t_j) || softmax_{j in N(i)} k(h_i, h_j)).

    N(i): the in-neighbours of i in the training graph among the n rows that take part, without i
    itself; a node with fewer than two adds exactly 0. Under a sampler they are those in the batch.
    The mean is over nodes (Yang et al.); the mean over edges of Joshi et al. is E/n times smaller.

    Args:
        weight: lambda; similarities of ``l1_exp`` and ``rbf`` lie in (0, 1], so gradients are small
            and weights of 100 usual. kernel: see ``KERNELS``. epochs: how many of the first ones
            have the term; the released code: 30; 0: all. Others: ``Features``; rows are always of
            nodes.
    """

    needs = (traits(Trait.TEACHER, Trait.SQUARE),)

    def __init__(
        self,
        weight: NonNegative = 100.0,
        kernel: Similarity = "l1_exp",
        epochs: Whole = 0,
        level: int = -1,
        teacher_level: int = -1,
        nodes: Nodes = "observed",
    ):
        rows: Rows = "nodes"
        super().__init__(weight, level, teacher_level, rows, nodes, samples=0)
        self.kernel, self.epochs = KERNELS[kernel], epochs
        self.kept: tuple[Tensor, Adjacency, Tensor] | None = None

    def attach(self, model: nn.Module, data: GraphData, teacher: Teacher | None) -> None:
        """Keep the graph, too."""
        super().attach(model, data, teacher)
        self.graph = data.graph

    def forward(self, out: Output, batch: Batch) -> Tensor:
        """weight * term, a scalar; 0 without edges or after the last epoch that has it."""
        if self.epochs and batch.key[1] >= self.epochs:
            return out.logits.sum() * 0
        h, ids, _ = self.members(out, batch)
        adj, said = self.neighbours(ids, h)
        if not adj.n_edges:
            return out.logits.sum() * 0
        given = log_softmax(self.kernel.edges(h, adj), adj)
        return self.weight * F.kl_div(given, said, reduction="sum", log_target=True) / len(h)

    def neighbours(self, ids: Tensor, h: Tensor) -> tuple[Adjacency, Tensor]:
        """The edges among the nodes ``ids``, and what the teacher says of them, [E]."""
        if self.kept is None or not torch.equal(self.kept[0], ids):
            graph = induce(self.graph, ids.cpu())
            apart = graph.dst.long() != graph.indices
            count = torch.bincount(graph.dst[apart], minlength=len(ids))
            indptr = torch.cat([count.new_zeros(1), count.cumsum(0)])
            adj = Adjacency(indptr, graph.indices[apart], len(ids)).to(ids.device)
            said = log_softmax(self.kernel.edges(self.table(ids).to(h.dtype), adj), adj)
            self.kept = (ids, adj, said)
        return self.kept[1:]


def log_softmax(e: Tensor, adj: Adjacency) -> Tensor:
    """e - log sum exp e over the in-edges of the same node. Shapes: [E] -> [E]."""
    i, n = adj.dst.long(), adj.n_dst
    top = e.detach().new_full((n,), -torch.inf).scatter_reduce(0, i, e.detach(), "amax")
    e = e - top.index_select(0, i)
    total = e.new_zeros(n).index_add(0, i, e.exp())
    return e - total.log().index_select(0, i)

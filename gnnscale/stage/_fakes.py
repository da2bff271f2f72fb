"""Graphs that exist only as probabilities: what GFKD makes up in place of data.

Deng & Zhang, IJCAI 2021, arXiv:2105.07519 (GFKD), and the authors' code.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnscale.core.batch import Batch
from gnnscale.core.hop import Need
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.norm import whole_hop


def arm(losses: Callable[[Tensor], Tensor], logits: Tensor, u: Tensor, owner: Tensor) -> Tensor:
    """Estimated gradient of the expected loss in the logits of independent Bernoulli entries.

    (l(1[u > sigmoid(-phi)]) - l(1[u < sigmoid(phi)])) (u - 1/2), without bias (ARM: Yin & Zhou,
    ICLR 2019; GFKD, eq. 6): two losses, no backward pass.

    Args:
        losses: [K] bool, entries -> [G], the loss of each graph. logits: phi [K]. u: [K] uniform in
            (0, 1). owner: [K] the graph of each entry.

    Shapes: -> [K].
    """
    with torch.no_grad():
        first = losses(u > torch.sigmoid(-logits))
        second = losses(u < torch.sigmoid(logits))
        return (first - second)[owner] * (u - 0.5)


class Fakes:
    """G graphs with a logit for every directed edge between different nodes of one graph.

    Args:
        sizes: [G] nodes of each. features: F, kinds of nodes. classes: C. draw: of targets (uniform
            classes), edge probabilities (uniform in (0, 1)) and feature logits (normal).

    Attributes: y [G] targets. phi [K] logits of edges, by destination. logits [N, F] of features.
    """

    def __init__(self, sizes: Tensor, features: int, classes: int, draw: torch.Generator):
        self.sizes, graphs, nodes = sizes, len(sizes), int(sizes.sum())
        self.offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.segment = torch.repeat_interleave(torch.arange(graphs), sizes)
        degree = sizes[self.segment]  # of every node, itself among them
        dst = torch.repeat_interleave(torch.arange(nodes), degree)
        place = torch.arange(len(dst)) - (degree.cumsum(0) - degree)[dst]
        src = self.offsets[self.segment[dst]] + place
        apart = src != dst
        self.dst, self.src = dst[apart], src[apart]
        self.owner = self.segment[self.dst]
        self.y = torch.randint(0, classes, (graphs,), generator=draw)
        self.phi = torch.logit(torch.rand(len(self.dst), generator=draw))
        self.logits = torch.randn(nodes, features, generator=draw).requires_grad_()

    def graph(self, there: Tensor) -> Adjacency:
        """All graphs side by side with the edges that are ``there``, [K] bool."""
        counts = torch.bincount(self.dst[there], minlength=len(self.segment))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Adjacency(indptr, self.src[there].int(), len(self.segment))

    def batch(self, there: Tensor, x: Tensor, need: Need, readout: str) -> Batch:
        """Every graph as a seed."""
        hop = replace(whole_hop(self.graph(there), need, x.dtype, None), segment=self.segment)
        nodes, graphs = torch.arange(len(x)), torch.arange(len(self.sizes))
        return Batch(
            x=x, hops=(hop,) * need.depth, nodes=nodes, rows=self.offsets[:-1], ids=graphs,
            y=self.y, labeled=torch.ones(len(graphs), dtype=torch.bool), segment=self.segment,
            readout=readout,
        )  # fmt: skip


class Statistics:
    """How far inputs of batch norms are from the running statistics, while ``with`` lasts.

    R = sum over the norms of ||var_run - var(z)||_2 + ||mean_run - mean(z)||_2, z the rows that
    reach a norm, var biased (GFKD, eq. 9).
    """

    def __init__(self, model: nn.Module):
        self.norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
        self.total: Tensor | float = 0.0

    def __enter__(self) -> "Statistics":
        self.total = 0.0
        self.handles = [m.register_forward_pre_hook(self.hear) for m in self.norms]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def hear(self, norm: nn.Module, given: tuple) -> None:
        """Add one norm's share."""
        (z,) = given
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        variance = (norm.running_var - z.var(0, unbiased=False)).norm()
        self.total = self.total + variance + (norm.running_mean - z.mean(0)).norm()


def entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the rows' softmax, in nats: 0 for one-hot rows. [N, F] -> scalar."""
    log = F.log_softmax(logits, 1)
    return -(log.exp() * log).sum(1).mean()

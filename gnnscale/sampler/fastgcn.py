"""FastGCN: each layer's nodes are drawn from one distribution over the whole graph.

Chen, Ma & Xiao, ICLR 2018, arXiv:1801.10247, Algorithm 2.

Departs from it: self entries are exact, so p leaves them out (see ``Columns``). The authors' code
draws without replacement, among the neighbours of the batch only, with gains 1 / (s p) all the
same; and it draws in the last layer alone, since it computes the first one's A X beforehand: here
that is ``sampler.nodes=[-1,400]``. ``estimator="authors"`` is what LADIES' authors made of it.
"""

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.data import GraphData
from gnnscale.core.hop import Need
from gnnscale.core.random import Key
from gnnscale.graph.drawn import squares
from gnnscale.graph.induce import scratch
from gnnscale.sampler._columns import Columns, Drawn, weighted_draw


class FastGCN(Columns):
    """p_v is proportional to the sum over all nodes i of L_iv^2.

    A drawn node that is no neighbour of any target is of no use and leaves the batch.

    Args: as ``Columns``.
    """

    purpose = "fastgcn"

    def prepare(self, data: GraphData, need: Need, key: Key) -> None:
        """Also the distribution over nodes."""
        super().prepare(data, need, key)
        adj = data.graph
        self.candidates, self.mass = squares(
            adj.indptr.numpy(), adj.indices.numpy(), torch.arange(adj.n_dst).numpy(),
            *self.entries, False, scratch(adj.n_src),
        )  # fmt: skip

    def draws(self, targets: Tensor, s: int, word: np.uint64) -> Drawn | None:
        """Draws over the whole graph."""
        if s >= len(self.candidates) or not self.mass.any():
            return None
        places, gain = weighted_draw(self.mass, self.candidates, s, self.unbiased, word)
        return self.candidates[places], gain, np.zeros(len(targets))

"""Neighbour sampling: every layer reads a few drawn neighbours of each node.

Hamilton et al., NeurIPS 2017, arXiv:1706.02216 (GraphSAGE), Algorithm 2.

Departs from it: neighbours are drawn without replacement unless ``replace`` is set (the authors
cut the adjacency to 128 neighbours once and draw columns of that); "sum" is scaled by degree over
drawn neighbours, so that it estimates the operator of the whole graph without bias.
"""

import numpy as np
from torch import Tensor

from gnnscale.core.hop import Hop
from gnnscale.core.values import Count
from gnnscale.graph.drawn import neighbors
from gnnscale.graph.induce import scratch
from gnnscale.sampler._layered import Layered


class Neighbor(Layered):
    """A batch of seeds and, layer by layer, drawn in-neighbours of what the layer above needs.

    "sum" estimates sum_j w_ij m_j by d_i / k_i times the sum over the k_i drawn of d_i neighbours:
    unbiased per layer for every operator, with factors from the degrees of the training graph. Mean
    and the other set aggregators are plain on the sample. Fan-out -1 is exact.

    Args:
        fanouts: neighbours per node, from the input layer to the seeds (the last entry is nearest
            the seeds), or one number for every layer; -1: all.
        batch_size: seeds per step.
        replace: draw with replacement, exactly the fan-out per node that has neighbours.

    Raises: UsageError for a fan-out that is 0 or below -1, and in ``check`` if there is not one
    fan-out per layer.
    """

    purpose = "neighbor"

    def __init__(
        self, fanouts: list[int] | int = 10, batch_size: Count = 1024, replace: bool = False
    ):
        super().__init__(fanouts, batch_size)
        self.replace = replace

    def hop(self, layer: int, targets: Tensor, word: np.uint64) -> tuple[Hop, Tensor]:
        """Drawn neighbours of ``targets``."""
        adj, fanout = self.data.graph, self.per_layer[layer]
        block = neighbors(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), fanout, self.replace,
            self.loop, word, scratch(adj.n_src),
        )  # fmt: skip
        # with loops the scale is per edge: a loop is always there
        scaled = "none" if fanout < 0 else "edges" if self.loop else "rows"
        return self.assemble(targets, block, scaled=scaled)

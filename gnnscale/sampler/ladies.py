"""LADIES: each layer's nodes are drawn among the neighbours of the layer above.

Zou et al., NeurIPS 2019, arXiv:1911.07323, Algorithm 1; defaults follow the authors' code.

Departs from it: the nodes of the layer above are in the layer for certain, so their edges are
exact and the draws go to other nodes (the authors' code adds them to the draw and divides by p all
the same; ``estimator="authors"`` does that).
"""

from typing import Literal

import numpy as np
from torch import Tensor

from gnnscale.core.values import Count
from gnnscale.graph.drawn import squares
from gnnscale.graph.induce import scratch
from gnnscale.sampler._columns import Columns, Drawn, weighted_draw


class Ladies(Columns):
    """p_v is proportional to the sum over the targets i of L_iv^2.

    Args: as ``Columns``.
    """

    purpose = "ladies"

    def __init__(
        self,
        nodes: list[int] | int = 512,
        batch_size: Count = 512,
        estimator: Literal["unbiased", "authors"] = "unbiased",
    ):
        super().__init__(nodes, batch_size, estimator)

    def draws(self, targets: Tensor, s: int, word: np.uint64) -> Drawn | None:
        """Draws among the neighbours; unbiased, among those that are no targets."""
        adj = self.data.graph
        nodes, mass = squares(
            adj.indptr.numpy(), adj.indices.numpy(), targets.numpy(), *self.entries,
            self.unbiased, scratch(adj.n_src),
        )  # fmt: skip
        if s >= len(nodes) or not mass.any():
            return None
        places, gain = weighted_draw(mass, nodes, s, self.unbiased, word)
        own = np.ones(len(targets))
        if not self.unbiased:
            p = np.zeros(adj.n_src)
            p[nodes] = mass / mass.sum()
            p = p[targets.numpy()]
            own = np.divide(1.0, p, out=np.zeros_like(p), where=p > 0)
        return nodes[places], gain, own

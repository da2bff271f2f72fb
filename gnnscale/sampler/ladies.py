"""LADIES: each layer's nodes are drawn among the neighbours of the layer above.

Zou et al., NeurIPS 2019, arXiv:1911.07323, Algorithm 1; details follow the authors' code.

Departs from it: the nodes of the layer above are in the layer for certain, so their edges are
exact and the draws go to other nodes. The authors' code adds the seeds to every layer and divides
by their p all the same; ``estimator="authors"`` does that with all nodes of the layer above, so
that self entries are never lost. Validation is exact; there, it draws 20 times as many nodes.
"""

import numpy as np
from torch import Tensor

from gnnscale.graph.drawn import squares
from gnnscale.graph.induce import scratch
from gnnscale.sampler._columns import Columns, Drawn, weighted_draw


class Ladies(Columns):
    """p_v is proportional to the sum over the targets i of L_iv^2.

    Args: as ``Columns``.
    """

    purpose = "ladies"

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

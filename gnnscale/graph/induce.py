"""Node-induced subgraphs, compiled."""

import threading

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency

_scratch = threading.local()


@compiled()
def _induce(indptr, indices, nodes, local):
    """Rows and columns of ``nodes``; ``local`` [n_src] int32 is all -1 before and after."""
    for i in range(len(nodes)):
        local[nodes[i]] = i
    starts = np.zeros(len(nodes) + 1, np.int64)
    for i in range(len(nodes)):
        kept = 0
        for e in range(indptr[nodes[i]], indptr[nodes[i] + 1]):
            kept += local[indices[e]] >= 0
        starts[i + 1] = starts[i] + kept
    columns = np.empty(starts[-1], np.int32)
    edges = np.empty(starts[-1], np.int64)
    for i in range(len(nodes)):
        at = starts[i]
        for e in range(indptr[nodes[i]], indptr[nodes[i] + 1]):
            j = local[indices[e]]
            if j >= 0:
                columns[at] = j
                edges[at] = e
                at += 1
    for i in range(len(nodes)):
        local[nodes[i]] = -1
    return starts, columns, edges


def scratch(size: int) -> np.ndarray:
    """[>= size] int32 of -1, one per thread and reused: whoever marks it must unmark it."""
    array = getattr(_scratch, "array", None)
    if array is None or len(array) < size:
        array = _scratch.array = np.full(size, -1, np.int32)
    return array


def induce(adj: Adjacency, nodes: Tensor) -> Adjacency:
    """The subgraph of ``adj`` on ``nodes`` (distinct), numbered in their order.

    ``edges`` of the result holds each edge's position in ``adj``. Shapes: nodes [n] int64.
    """
    arrays = _induce(
        adj.indptr.numpy(), adj.indices.numpy(), nodes.numpy(), scratch(adj.n_src)
    )  # fmt: skip
    indptr, indices, edges = (torch.from_numpy(a) for a in arrays)
    return Adjacency(indptr, indices, len(nodes), edges)

"""Bipartite blocks: some destinations with all of their in-edges, compiled."""

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.hop import Hop
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.induce import scratch


@compiled()
def _block(indptr, indices, nodes, local):
    """Destinations first, then every other source in order of first appearance."""
    starts = np.zeros(len(nodes) + 1, np.int64)
    for i in range(len(nodes)):
        local[nodes[i]] = i
        starts[i + 1] = starts[i] + indptr[nodes[i] + 1] - indptr[nodes[i]]
    columns = np.empty(starts[-1], np.int32)
    edges = np.empty(starts[-1], np.int64)
    sources = np.empty(min(len(nodes) + starts[-1], len(local)), np.int64)
    sources[: len(nodes)] = nodes
    count = len(nodes)
    at = 0
    for i in range(len(nodes)):
        for e in range(indptr[nodes[i]], indptr[nodes[i] + 1]):
            j = indices[e]
            if local[j] < 0:
                local[j] = count
                sources[count] = j
                count += 1
            columns[at] = local[j]
            edges[at] = e
            at += 1
    for k in range(count):
        local[sources[k]] = -1
    return starts, columns, edges, sources[:count]


def block(adj: Adjacency, nodes: Tensor) -> tuple[Adjacency, Tensor]:
    """All in-edges of ``nodes`` (distinct) as a block, and the node behind each of its sources.

    Shapes: nodes [n] int64 -> block with n destinations, sources [n_src] int64, sources[:n] being
    ``nodes``. ``edges`` of the block holds each edge's position in ``adj``.
    """
    arrays = _block(adj.indptr.numpy(), adj.indices.numpy(), nodes.numpy(), scratch(adj.n_src))
    indptr, indices, edges, sources = (torch.from_numpy(a) for a in arrays)
    return Adjacency(indptr, indices, len(sources), edges), sources


def cut(hop: Hop, nodes: Tensor) -> tuple[Hop, Tensor]:
    """The part of a square hop that computes ``nodes`` (distinct), and its source nodes.

    Every factor stays that of the whole graph, so that the part is exact. Shapes: nodes [n] int64
    -> a hop with n destinations, sources [n_src] int64.
    """
    graph, src = block(hop.graph, nodes)
    at = {"src": src, "dst": nodes, "weight": graph.edges, "diag": nodes, "edge": graph.edges,
          "degree": src, "segment": src}  # fmt: skip
    whole = {name: getattr(hop, name) for name in at}
    return Hop(graph=graph, **{n: v[at[n]] for n, v in whole.items() if v is not None}), src

import pytest
import torch

from gnnscale.core.data import GraphData, Task
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.simple import simple

SIX = ((1, 0), (2, 0), (4, 0), (0, 1), (0, 2), (1, 2), (3, 2), (4, 2), (2, 3), (3, 4))
"""Edges j -> i by hand: directed, in-degrees 3 1 4 1 1 0, node 5 alone."""


@pytest.fixture
def six() -> Adjacency:
    src, dst = torch.tensor(SIX).T
    return Adjacency.from_edges(src, dst, 6)


@pytest.fixture
def sixty() -> GraphData:
    """A random symmetric graph in float64; nodes 58 and 59 have no neighbours."""
    draw = torch.Generator().manual_seed(0)
    src, dst = torch.randint(0, 58, (2, 150), generator=draw)
    graph, facts = simple(src, dst, 60)
    order = torch.randperm(60, generator=draw)
    return GraphData(
        name="sixty",
        graph=graph,
        x=torch.randn(60, 7, generator=draw, dtype=torch.float64),
        y=torch.randint(0, 4, (60,), generator=draw),
        splits={"train": order[:20], "valid": order[20:40], "test": order[40:]},
        task=Task(classes=4),
        facts=facts,
    )


@pytest.fixture
def dense():
    """dense(adj, weight=None): the matrix [n_dst, n_src] of an adjacency, entry by entry."""

    def make(adj, weight=None):
        matrix = torch.zeros(adj.n_dst, adj.n_src, dtype=torch.float64)
        for i in range(adj.n_dst):
            for e in range(int(adj.indptr[i]), int(adj.indptr[i + 1])):
                matrix[i, int(adj.indices[e])] += 1.0 if weight is None else weight[e]
        return matrix

    return make

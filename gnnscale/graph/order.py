"""Nodes numbered anew, so that neighbours' rows lie near each other in memory."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnscale.core.cache import cached, content
from gnnscale.core.data import GraphData
from gnnscale.core.errors import UsageError
from gnnscale.core.hardware import Order
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.random import Key
from gnnscale.graph.induce import induce
from gnnscale.graph.partition import partition

PART = 1000
"""Nodes of a part that METIS makes: 1 MiB of rows of 256 float32."""


def by_degree(adj: Adjacency) -> Tensor:
    """Nodes by the number of their edges, most first, so that rows read often share lines."""
    degree = adj.in_degree + adj.out_degree
    return torch.argsort(degree, descending=True, stable=True)


def reverse_cuthill_mckee(adj: Adjacency) -> Tensor:
    """Breadth first from nodes of few edges, backwards: neighbours get near numbers.

    Cuthill & McKee, Proc. 24th ACM National Conference (1969); reversed by George (1971).
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee as walked

    ends = (np.ones(adj.n_edges, np.int8), adj.indices.numpy(), adj.indptr.numpy())
    pattern = sp.csr_matrix(ends, shape=(adj.n_dst, adj.n_src))
    return torch.from_numpy(walked(pattern, symmetric_mode=False).astype(np.int64))


def by_part(adj: Adjacency) -> Tensor:
    """The parts of METIS, of about 1,000 nodes, one after the other."""
    parts = max(1, round(adj.n_dst / PART))
    return partition(adj, parts, "metis" if parts > 1 else "order", Key(0, "order")).order


ORDERS: dict[str, Callable[[Adjacency], Tensor]] = {
    "degree": by_degree,
    "rcm": reverse_cuthill_mckee,
    "metis": by_part,
}


def ordered(data: GraphData, order: Order) -> GraphData:
    """The same data with its nodes numbered anew; ``names`` keeps what they were called.

    In full batch nothing but the order of sums changes, and which random numbers dropout gives to
    whom; samplers draw by number, so they draw others. A graph's order is kept in the cache.

    Raises: UsageError for many graphs side by side, and where items are told apart by their place.
    """
    if order == "source":
        return data
    if data.offsets is not None or data.task.group:
        raise UsageError(
            f"hardware.order={order}: {data.name} is many graphs side by side, whose nodes stay "
            "where they are; type hardware.order=source"
        )
    adj = data.graph
    key = {"order": order, "part": PART, "graph": content(adj.indptr.numpy(), adj.indices.numpy())}
    found = cached(f"{data.name}-order", key, lambda: {"ids": ORDERS[order](adj).numpy()})
    ids = torch.from_numpy(np.array(found["ids"]))
    place = torch.empty_like(ids)
    place[ids] = torch.arange(len(ids))
    graph, edges = _sorted(induce(adj, ids))
    return data.with_(
        graph=graph,
        x=data.x[ids],
        y=data.y[ids],
        splits={name: place[rows].sort().values for name, rows in data.splits.items()},
        weight=None if data.weight is None else data.weight[edges],
        edge=None if data.edge is None else data.edge[edges],
        names=ids.numpy() if data.names is None else data.names[ids.numpy()],
        facts={**data.facts, "order": order},
    )


def _sorted(adj: Adjacency) -> tuple[Adjacency, Tensor]:
    """Sources ascending within each row, and the edge of each entry in the graph as it was."""
    at = torch.from_numpy(np.lexsort((adj.indices.numpy(), adj.dst.numpy())))
    return Adjacency(adj.indptr, adj.indices[at], adj.n_src), adj.edges[at]

"""The whole graph as one batch: full-batch training and exact inference share it."""

import torch
from torch import Tensor

from gnnscale.core.batch import Batch
from gnnscale.core.data import GraphData
from gnnscale.core.hop import Need
from gnnscale.graph.induce import induce
from gnnscale.graph.norm import whole_hop
from gnnscale.graph.pieces import ranges


def whole_batch(data: GraphData, need: Need) -> Batch:
    """Every node of ``data`` as a seed, the same hop ``need.depth`` times."""
    hops = (whole_hop(data.graph, need, data.x.dtype, data.weight),) * need.depth
    ids = torch.arange(data.nodes)
    return Batch(
        x=data.x, hops=hops, nodes=ids, rows=ids, ids=ids, y=data.y, labeled=data.mask("train")
    )  # fmt: skip


def training_graph(data: GraphData) -> tuple[GraphData, Tensor]:
    """The graph that training may see, and the global id of each of its nodes.

    Transductive data is returned as it is. Inductive data is cut to the training nodes, data with a
    split ``unseen`` to all others, and both to the edges among them, so that no feature, label or
    edge of a node that is left out can reach training.
    """
    seen = data.seen
    if data.offsets is not None or seen.all():
        return data, torch.arange(data.items)
    ids = seen.nonzero().flatten()
    place = torch.full((data.nodes,), -1, dtype=torch.int64)
    place[ids] = torch.arange(len(ids))
    splits = {name: place[rows] for name, rows in data.splits.items() if name != "unseen"}
    graph = induce(data.graph, ids)
    cut = data.with_(
        graph=graph,
        weight=None if data.weight is None else data.weight[graph.edges],
        edge=None if data.edge is None else data.edge[graph.edges],
        names=None if data.names is None else data.names[ids.numpy()],
        x=data.x[ids],
        y=data.y[ids],
        splits={name: rows[rows >= 0].sort().values for name, rows in splits.items()},
    )
    return cut, ids


def some_graphs(data: GraphData, chosen: Tensor) -> GraphData:
    """Graphs ``chosen``, ascending, with the splits among them; ``names`` keep the source's ids."""
    assert data.offsets is not None
    sizes = (data.offsets[1:] - data.offsets[:-1])[chosen]
    nodes = ranges(data.offsets[chosen], sizes)
    graph = induce(data.graph, nodes)
    place = torch.full((data.items,), -1, dtype=torch.int64)
    place[chosen] = torch.arange(len(chosen))
    splits = {name: place[ids] for name, ids in data.splits.items()}
    return data.with_(
        graph=graph,
        x=data.x[nodes],
        y=data.y[chosen],
        splits={name: ids[ids >= 0] for name, ids in splits.items()},
        offsets=torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]),
        weight=None if data.weight is None else data.weight[graph.edges],
        edge=None if data.edge is None else data.edge[graph.edges],
        names=chosen.numpy() if data.names is None else data.names[chosen.numpy()],
    )

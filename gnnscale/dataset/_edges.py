"""What is done to an edge list before it is a graph: component, direction, loops, weights."""

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.graph.simple import simple


def largest_component(src: np.ndarray, dst: np.ndarray, nodes: int) -> np.ndarray:
    """Node ids of the largest connected component, directions ignored; of equals the first."""
    ones = np.ones(len(src), np.int8)
    _, owner = sp.csgraph.connected_components(
        sp.coo_matrix((ones, (src, dst)), shape=(nodes, nodes)), directed=False
    )
    return np.flatnonzero(owner == np.bincount(owner).argmax())


def restrict(
    src: np.ndarray, dst: np.ndarray, weight: np.ndarray | None, kept: np.ndarray, nodes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The edges among the nodes ``kept``, which are renumbered in their order."""
    place = np.full(nodes, -1, np.int64)
    place[kept] = np.arange(len(kept))
    inside = (place[src] >= 0) & (place[dst] >= 0)
    return place[src[inside]], place[dst[inside]], None if weight is None else weight[inside]


def adjacency(
    src: np.ndarray,
    dst: np.ndarray,
    nodes: int,
    *,
    weight: np.ndarray | None,
    reverse_edges: bool,
    self_loops: str,
) -> tuple[Adjacency, Tensor | None, dict[str, int]]:
    """The graph of an edge list, its edge weights, and what was done, in directed edges.

    Edges listed more than once become one, their weights summed. ``reverse_edges`` adds i -> j
    for every j -> i; where both were given, each keeps its own weight. ``self_loops``: remove;
    keep those given; or add: one on every node, of weight 1 where none was given.

    Shapes: src, dst, weight [E] -> rows ascending; weight [E'] float32 or None.
    """
    if reverse_edges and self_loops == "remove":
        graph, facts = simple(src, dst, nodes)
    else:
        graph, facts = _directed(src, dst, nodes, reverse_edges, self_loops)
    if weight is None:
        return graph, None, facts
    given = sp.coo_matrix((weight.astype(np.float64), (dst, src)), shape=(nodes, nodes)).tocsr()
    given.sum_duplicates()
    given.sort_indices()
    keys = np.repeat(np.arange(nodes), np.diff(given.indptr)) * nodes + given.indices
    i, j = graph.dst.numpy().astype(np.int64), graph.indices.numpy().astype(np.int64)
    values = np.ones(len(i))
    for wanted in (j * nodes + i, i * nodes + j):  # the edge itself wins over its reverse
        if len(keys):
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            values = np.where(keys[at] == wanted, given.data[at], values)
    return graph, torch.from_numpy(values.astype(np.float32)), facts


def _directed(
    src: np.ndarray, dst: np.ndarray, nodes: int, reverse_edges: bool, self_loops: str
) -> tuple[Adjacency, dict[str, int]]:
    """Any mix of directions and loops, by sorting keys; ``simple`` is the fast usual case."""
    loop = src == dst
    j, i = src[~loop].astype(np.int64), dst[~loop].astype(np.int64)
    keys = np.unique(i * nodes + j)
    distinct = len(keys)
    if reverse_edges:
        keys = np.union1d(keys, (keys % nodes) * nodes + keys // nodes)
    reversed_added = len(keys) - distinct
    own = np.unique(src[loop]).astype(np.int64)
    if self_loops != "remove":
        ends = own if self_loops == "keep" else np.arange(nodes)
        keys = np.union1d(keys, ends * nodes + ends)
    loops_kept = 0 if self_loops == "remove" else len(own)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(keys // nodes, minlength=nodes))])
    graph = Adjacency(
        torch.from_numpy(indptr), torch.from_numpy((keys % nodes).astype(np.int32)), nodes
    )
    return graph, {
        "edges_given": len(src),
        "loops_removed": 0 if loops_kept else int(loop.sum()),
        "duplicates_removed": int(len(i) - distinct)
        + (int(loop.sum()) - len(own)) * bool(loops_kept),
        "reversed_added": reversed_added,
        "loops_added": nodes - len(own) if self_loops == "add" else 0,
    }

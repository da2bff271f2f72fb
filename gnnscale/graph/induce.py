"""Node-induced subgraphs, one or many side by side, compiled.

Whether a neighbour is in the subgraph is read from a bit per node, of which a core's nearest cache
holds a quarter of a million; only those that are in it are looked up. Nothing is decided by a
branch, since no processor guesses these. (Searching long rows for the nodes of a small subgraph, in
place of reading them, was tried: 2 to 6 % of a shaDow batch of two hops.)
"""

import threading

import numpy as np
import torch
from torch import Tensor

from gnnscale.core.compiled import compiled
from gnnscale.core.ops.adjacency import Adjacency
from gnnscale.core.ops.lanes import AHEAD, LINE, fetch
from gnnscale.graph.walk import draw, unit

_scratch = threading.local()


ASKED = 4
"""Lines of a row that are asked for before it is read."""


@compiled()
def grown(array, size):
    """``array`` with room for ``size`` entries at least."""
    if size <= len(array):
        return array
    more = np.empty(max(size, 2 * len(array)), array.dtype)
    more[: len(array)] = array
    return more


@compiled()
def _among(indices, first, last, marks, edges, columns, n):
    """Append the edges of a row whose source is marked; the new number of edges."""
    at = np.uint64(n)  # numba looks whether signed places count from the end
    for e in range(np.uint64(first), np.uint64(last)):
        j = np.uint64(indices[e])
        edges[at], columns[at] = e, j
        at += (marks[j >> np.uint64(6)] >> (j & np.uint64(63))) & np.uint64(1)
    return np.int64(at)


@compiled()
def _ask(indices, at):
    """Ask the memory for the beginning of a row."""
    for line in range(ASKED):
        fetch(indices, at, line * LINE)


@compiled()
def _isolate(indptr, indices, starts, members, drop, word, local, marks):
    """One block per subgraph; ``local`` [N] int32 is all -1, ``marks`` all 0, before and after."""
    rows = np.zeros(len(members) + 1, np.int64)
    edges = np.empty(8 * len(members) + 1, np.int64)
    columns = np.empty(len(edges), np.int32)
    n = 0
    for b in range(len(starts) - 1):
        begin, end = starts[b], starts[b + 1]
        if begin == end:
            continue
        for i in range(begin, end):
            v = np.uint64(members[i])
            local[v] = i
            marks[v >> np.uint64(6)] |= np.uint64(1) << (v & np.uint64(63))
            _ask(indices, indptr[v])
        stream, seen = draw(word, members[begin]), 0
        for i in range(begin, end):
            _ask(indices, indptr[members[min(i + AHEAD, len(members) - 1)]])
            first, last = indptr[members[i]], indptr[members[i] + 1]
            count = last - first
            edges, columns = grown(edges, n + count), grown(columns, n + count)
            at = _among(indices, first, last, marks, edges, columns, n)
            kept = at
            if drop > 0:
                kept = n
                for k in range(n, at):
                    seen += 1
                    edges[kept], columns[kept] = edges[k], columns[k]
                    kept += not unit(stream, seen) < drop
            for k in range(np.uint64(n), np.uint64(kept)):
                columns[k] = local[np.uint64(columns[k])]
            rows[i + 1] = n = kept
        for i in range(begin, end):
            v = np.uint64(members[i])
            local[v] = -1
            marks[v >> np.uint64(6)] = np.uint64(0)
    return rows, columns[:n].copy(), edges[:n].copy()


def scratch(size: int) -> np.ndarray:
    """[>= size] int32 of -1, one per thread and reused: whoever marks it must unmark it."""
    array = getattr(_scratch, "array", None)
    if array is None or len(array) < size:
        array = _scratch.array = np.full(size, -1, np.int32)
    return array


def _bits(size: int) -> np.ndarray:
    """At least ``size`` bits of 0, under the same rule."""
    bits = getattr(_scratch, "bits", None)
    if bits is None or 64 * len(bits) < size:
        bits = _scratch.bits = np.zeros(-(-size // 64), np.uint64)
    return bits


def isolate(
    adj: Adjacency, starts: Tensor, members: Tensor, drop: float = 0.0, word: np.uint64 | int = 0
) -> Adjacency:
    """Induced subgraphs side by side, without an edge between two of them.

    Subgraph b is that on the distinct nodes members[starts[b] : starts[b + 1]], in their order; a
    node may be in any number of them. ``edges`` of the result holds each edge's position in
    ``adj``. Every edge is left out with probability ``drop``, by draws that depend on ``word``, the
    subgraph's first node and the edge's place alone.

    Shapes: starts [n + 1] int64, members [sum of sizes] int32.
    """
    arrays = _isolate(
        adj.indptr.numpy(), adj.indices.numpy(), starts.numpy(), members.numpy(),
        float(drop), np.uint64(word), scratch(adj.n_src), _bits(adj.n_src),
    )  # fmt: skip
    indptr, indices, edges = (torch.from_numpy(a) for a in arrays)
    return Adjacency(indptr, indices, len(members), edges)


def induce(adj: Adjacency, nodes: Tensor) -> Adjacency:
    """The subgraph of ``adj`` on ``nodes`` (distinct), numbered in their order.

    ``edges`` of the result holds each edge's position in ``adj``. Shapes: nodes [n] int64.
    """
    return isolate(adj, torch.tensor([0, len(nodes)]), nodes.int())
